# SPDX-License-Identifier: Apache-2.0
"""Entry point of `ns-diff3r`.

A command is a dataclass whose fields are its options and whose `run` does the work. Its module imports nothing heavy
at the top, so that `ns-diff3r -h` answers at once; commands whose options are settings of the library (and so import
torch) are only imported when they are called.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import make_dataclass
from importlib import import_module
from typing import Annotated, Any, Union

import tyro
from tyro.conf import subcommand

from .benchmark import Benchmark
from .compare import Compare
from .convert import Convert
from .doctor import Doctor
from .export import Export
from .gradcheck import Gradcheck
from .optimize import Optimize
from .weights import Weights

LATE = {
    "reconstruct": ("reconstruct", "Reconstruct", "Photographs in, a splat out, by a trained network."),
    "fit": (
        "fit",
        "Fit",
        "Train the compact network on one scene or a folder of scenes, and evaluate it; fit depthsplat and fit da3: "
        "the official networks.",
    ),
    "evaluate": ("evaluate", "Evaluate", "A trained network on the held-out images of scenes."),
    "ablation": ("ablation", "Ablation", "Whether training through test-time optimisation pays, row by row."),
    "reproduce": ("reproduce", "Reproduce", "The paper's evaluations, posed and unposed, beside its numbers."),
    "prior-analysis": ("prior_analysis", "PriorAnalysis", "What the λ of a trained network depends on."),
    "figures": ("figures", "Figures", "Pictures before and after optimisation, maps of λ, and curves."),
}
"""Commands that are imported when called: name → module, class, and the line that help shows."""

VARIANTS = {
    "fit compact": ("fit", "Fit"),
    "fit depthsplat": ("fit_official", "FitDepthSplat"),
    "fit da3": ("fit_official", "FitDepthAnything3"),
}
"""Commands of two words: words → module, class."""

EARLY = (Optimize, Export, Gradcheck, Compare, Benchmark, Weights, Convert, Doctor)
"""Commands whose options need nothing heavy."""

PACKAGE = __name__.split(".")[0]
TRACEBACK = "NS_DIFF3R_TRACEBACK"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse `arguments` (default: the command line), run the command, return its exit status.

    Faults of the input are reported in one line on stderr, status 1; with $NS_DIFF3R_TRACEBACK set, with a traceback.
    """
    try:
        command = _parse(sys.argv[1:] if arguments is None else list(arguments))
        with _plain_warnings():
            return command.run()
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get(TRACEBACK):
            raise
        print(f"ns-diff3r: {error}  (set {TRACEBACK}=1 for a traceback)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Our own warnings (a scene or file left out) in one line on stderr, without the place in our code."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Any, category: type[Warning], *place: Any, **rest: Any) -> None:
            if category.__module__.split(".")[0] == PACKAGE:
                print(f"warning: {message}", file=sys.stderr)
            else:
                usual(message, category, *place, **rest)

        warnings.showwarning = show
        yield


def _commands() -> Any:
    """All commands as the union that tyro reads; late ones are stand-ins, which help alone meets."""
    late = [Annotated[make_dataclass(c[1], []), subcommand(name, description=c[2])] for name, c in LATE.items()]
    early = [Annotated[command, subcommand(command.__name__.lower())] for command in EARLY]
    return Union[(*late, *early)]


def _parse(arguments: list[str]) -> Any:
    """The command that the arguments name, with its options set. Exits for help and for arguments that are wrong."""
    for words in (2, 1):
        called = " ".join(arguments[:words])
        if called in VARIANTS or called in LATE:
            module, name = VARIANTS[called] if called in VARIANTS else LATE[called][:2]
            kind = getattr(import_module(f".{module}", __package__), name)
            config = (tyro.conf.SuppressFixed,)  # _target of the networks' settings
            return tyro.cli(kind, prog=f"ns-diff3r {called}", args=arguments[words:], config=config)
    return tyro.cli(
        _commands(),
        prog="ns-diff3r",
        description="Gaussian splatting through differentiable test-time optimisation.",
        args=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
