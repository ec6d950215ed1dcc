# SPDX-License-Identifier: Apache-2.0
"""Table of what ptxas says of our kernels, from its --resource-usage output on stdin; fails where registers spill."""

from __future__ import annotations

import re
import subprocess
import sys

ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\w+)'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


def demangled(names: list[str]) -> list[str]:
    """Readable names, where c++filt is installed."""
    try:
        done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return names
    return done.stdout.splitlines()


def main() -> int:
    """Print the table; status 1 if a kernel of ours spills."""
    kernels: list[tuple[str, str, int, int, int, int]] = []
    name = target = ""
    stack = spills = 0
    for line in sys.stdin:
        if match := ENTRY.search(line):
            name, target = match.groups()
        elif match := SPILLS.search(line):
            stack, spills = int(match[1]), int(match[2]) + int(match[3])
        elif (match := USED.search(line)) and "ns_diff3r" in name:
            kernels.append((name, target, int(match[1]), spills, stack, int(match[2] or 0)))
    readable = demangled([kernel[0] for kernel in kernels])
    print(f"{'kernel':<58} {'for':<6} {'registers':>9} {'spills':>6} {'stack':>6} {'shared':>7}")
    rows = set()
    for title, (_, target, registers, spilled, stack, shared) in zip(readable, kernels, strict=True):
        match = re.search(r"run_kernel<(.*)>\(", title)
        short = (match[1] if match else title).replace("ns_diff3r::cuda::", "").replace("(anonymous namespace)::", "")
        rows.add((short, target, registers, spilled, stack, shared))
    for short, target, registers, spilled, stack, shared in sorted(rows):
        print(f"{short:<58} {target:<6} {registers:>9} {spilled:>6} {stack:>6} {shared:>7}")
    bad = [row for row in rows if row[3]]
    if bad:
        print("registers spill in: " + ", ".join(sorted({row[0] for row in bad})))
    return 1 if bad or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
