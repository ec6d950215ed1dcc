# SPDX-License-Identifier: Apache-2.0
"""Entry point of `ns-diff3r`.

A command is a dataclass whose fields are its options and whose `run` does the work. Its module imports nothing heavy
at the top, so that `ns-diff3r -h` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Union

import tyro
from tyro.conf import subcommand

from .benchmark import Benchmark
from .doctor import Doctor
from .gradcheck import Gradcheck
from .optimize import Optimize

Command = Union[  # noqa: UP007 - tyro reads it
    Annotated[Optimize, subcommand("optimize")],
    Annotated[Gradcheck, subcommand("gradcheck")],
    Annotated[Benchmark, subcommand("benchmark")],
    Annotated[Doctor, subcommand("doctor")],
]

TRACEBACK = "NS_DIFF3R_TRACEBACK"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse `arguments` (default: the command line), run the command, return its exit status.

    Faults of the input are reported in one line on stderr, status 1; with $NS_DIFF3R_TRACEBACK set, with a traceback.
    """
    command: Command = tyro.cli(
        Command,  # pyright: ignore[reportArgumentType] - tyro takes a union of commands
        prog="ns-diff3r",
        description="Gaussian splatting through differentiable test-time optimisation.",
        args=arguments,
    )
    try:
        return command.run()
    except (ValueError, TypeError, OSError) as error:
        if os.environ.get(TRACEBACK):
            raise
        print(f"ns-diff3r: {error}  (set {TRACEBACK}=1 for a traceback)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
