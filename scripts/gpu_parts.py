# SPDX-License-Identifier: Apache-2.0
"""The parts of scripts/gpu_check: what is there, build, tests, compute-sanitizer, benchmark, profile.

For a bare machine with a GPU, nvcc, a C++ compiler and a Python with torch, numpy and pybind11; no nerfstudio and no
network. Whatever else is missing is named, and what needs it is left out. After every part gpu_check.json is written
anew, with what earlier calls found; all output goes to gpu_check.log too. Nothing takes longer than ten minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

from gpu_machine import BUILD, ROOT, Machine, Result, requirements

PARTS = ("build", "tests", "sanitize", "benchmark", "profile")
LIMITS = {"build": 560, "tests": 420, "sanitize": 540, "benchmark": 420, "profile": 240}
"""Seconds after which a part is ended."""
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
BROKEN = re.compile(r"CUDA error|CUDA driver error|illegal memory access|unspecified launch failure|misaligned address")
"""After one of these nothing works in a process any more, whatever the next test is."""


def build(machine: Machine) -> Result:
    """The extension, for the card that is here, with line numbers for the tools."""
    options = ["-DNS_DIFF3R_CUDA_HOST=ON", "-DCMAKE_CUDA_FLAGS=-lineinfo"]
    if machine.host:
        options += ["-DNS_DIFF3R_CUDA=auto", "-DNS_DIFF3R_CUDA_ARCHITECTURES=90-real"]
    else:
        code = "import torch; print('%d%d' % torch.cuda.get_device_capability())"
        _, text = machine.python("-c", code, seconds=120, shown=False)
        options += ["-DNS_DIFF3R_CUDA=on", f"-DNS_DIFF3R_CUDA_ARCHITECTURES={text.split()[-1]}-real"]
    script = ["bash", "scripts/build_inplace.sh", *options]
    status, _ = machine.run(script, LIMITS["build"], PYTHON=sys.executable, BUILD_DIR=str(BUILD))
    said, text = machine.python("-c", "from ns_diff3r import extension; print(extension.describe())", seconds=120)
    return {"status": status or said, "kernels": text.strip().splitlines()[-1] if text.strip() else ""}


def tests(machine: Machine) -> Result:
    """Every file in a process of its own, several at a time; tests of a broken process once more, one by one."""
    if importlib.util.find_spec("pytest") is None:
        return {"left out": "pytest is missing"}
    files = sorted((ROOT / "tests" / "cuda").glob("test_*.py"))
    with ThreadPoolExecutor(1 if machine.host else 4) as pool:
        reports = list(pool.map(lambda file: run_tests(machine, [str(file)], file.stem), files))
    counts = {key: sum(report[key] for report in reports) for key in ("passed", "failed", "skipped")}
    failed = {name: text for report in reports for name, text in report["failures"].items()}
    ended = [file.stem for file, report in zip(files, reports, strict=True) if report["status"] not in (0, 1, 5)]
    again: dict[str, str] = {}
    if any(BROKEN.search(text) for text in failed.values()):
        for name in list(failed)[:20]:
            report = run_tests(machine, [name], "again", CUDA_LAUNCH_BLOCKING="1")
            again[name] = "failed alone too" if report["failed"] or report["status"] not in (0, 5) else "passed alone"
            machine.say(f"{name}: {again[name]}")
    for name, text in failed.items():
        machine.say(f"FAILED {name}: {text.strip().splitlines()[0] if text.strip() else ''}")
    machine.say(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    status = 1 if counts["failed"] or ended or not counts["passed"] else 0
    return {"status": status, **counts, "failures": failed, "alone": again, "files that did not end": ended}


def run_tests(machine: Machine, what: list[str], name: str, **environment: str) -> Result:
    """pytest on some tests of a device: counts, and the messages of failures."""
    xml = BUILD / f"tests_{name}.xml"
    xml.unlink(missing_ok=True)
    if machine.host:
        environment["NS_DIFF3R_PRETEND_DEVICE"] = "1"
    options = ["-q", "-m", "cuda", "-p", "no:cacheprovider", "--tb=short", f"--junitxml={xml}"]
    status, text = machine.python("-m", "pytest", *what, *options, seconds=LIMITS["tests"], shown=False, **environment)
    report: Result = {"status": status, "passed": 0, "failed": 0, "skipped": 0, "failures": {}}
    if not xml.exists():
        if status != 5:
            machine.say(text[-3000:])
        return report
    for case in ElementTree.parse(xml).iter("testcase"):
        bad = [child for child in case if child.tag in ("failure", "error")]
        state = "failed" if bad else "skipped" if case.find("skipped") is not None else "passed"
        report[state] += 1
        if bad:
            file = str(case.get("classname", "")).replace(".", "/") + ".py"
            message = (bad[0].get("message") or "") + "\n" + (bad[0].text or "")[-1500:]
            report["failures"][f"{file}::{case.get('name')}"] = message
    machine.say(text[-3000:].rstrip() if report["failed"] else (text.strip().splitlines() or [""])[-1])
    return report


def sanitize(machine: Machine) -> Result:
    """Every kernel once, under each tool. Tensors lie in allocations of their own, so that a step beyond one shows."""
    case = [sys.executable, "scripts/gpu_cases.py", "--device"]
    if machine.host:
        machine.say("compute-sanitizer needs a device; the case itself runs on a pretended one")
        return {"status": machine.run([*case, "pretended"], LIMITS["sanitize"])[0]}
    status, text = machine.run([*case, "cuda"], 120)
    result: Result = {"status": status, "the case itself": "ran" if status == 0 else text.strip().splitlines()[-1:]}
    if machine.tool("compute-sanitizer") is None:
        return {**result, "left out": "compute-sanitizer is missing"}
    help_text = machine.run(["compute-sanitizer", "--help"], 60, shown=False)[1]
    filtered = ["--kernel-regex", "kns=ns_diff3r"] if "--kernel-regex" in help_text else []

    def check(tool: str) -> tuple[int, str]:
        # initcheck must see what torch and cub write; the others take minutes for torch's kernels
        only = [] if tool == "initcheck" else filtered
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "--print-limit", "20", *only]
        return machine.run([*command, *case, "cuda"], 450, shown=False, PYTORCH_NO_CUDA_MEMORY_CACHING="1")

    with ThreadPoolExecutor(len(TOOLS)) as pool:
        for tool, (status, text) in zip(TOOLS, pool.map(check, TOOLS), strict=True):
            ours = blocks_about(text, ("ns_diff3r",))
            ran = "every kernel ran" in text
            summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", text)[-1:]
            machine.say(f"== {tool}: exit {status}, {'ran to its end' if ran else 'DID NOT END'}, {summary}")
            for block in ours[:5] if ran else [text[-3000:]]:
                machine.say(block)
            bad = bool(ours) or not ran or (status != 0 and tool != "initcheck")
            result[tool] = {"exit": status, "ran": ran, "summary": summary, "reports about us": ours[:10]}
            result["status"] = result["status"] or int(bad)
    return result


def blocks_about(text: str, names: tuple[str, ...]) -> list[str]:
    """A tool's reports, which begin with a line that is not indented, that name one of our kernels."""
    blocks: list[list[str]] = []
    for line in text.splitlines():
        if not line.startswith("========="):
            continue
        if not line.startswith("=========  ") or not blocks:
            blocks.append([])
        blocks[-1].append(line)
    return ["\n".join(block[:12]) for block in blocks if any(name in "\n".join(block) for name in names)]


def benchmark(machine: Machine) -> Result:
    """Figures against their targets."""
    path = BUILD / "benchmark.json"
    path.unlink(missing_ok=True)
    device = "pretended" if machine.host else "cuda"
    command = ["scripts/gpu_benchmark.py", "--device", device, "--json", str(path)]
    status, _ = machine.python(*command, seconds=LIMITS["benchmark"])
    return {"status": status, **(json.loads(path.read_text()) if path.exists() else {})}


def profile(machine: Machine) -> Result:
    """Where the time goes: by kernel from torch's profiler, and by counters from ncu where it is."""
    path = BUILD / "profile.json"
    path.unlink(missing_ok=True)
    device = "pretended" if machine.host else "cuda"
    status, _ = machine.python(
        "scripts/gpu_profile.py", "--device", device, "--json", str(path), seconds=LIMITS["profile"] - 90
    )
    result: Result = {"status": status, **(json.loads(path.read_text()) if path.exists() else {})}
    if machine.host or machine.tool("ncu") is None:
        return {**result, "left out": "ncu is missing, or there is no device"}
    sections = ["SpeedOfLight", "Occupancy", "LaunchStats", "MemoryWorkloadAnalysis", "WarpStateStats"]
    command = ["ncu", "--clock-control", "none", "--kernel-name-base", "mangled", "--kernel-name", "regex:ns_diff3r"]
    command += [option for section in sections for option in ("--section", section)]
    command += ["--launch-count", "40", sys.executable, "scripts/gpu_profile.py", "--once"]
    counted, text = machine.run(command, 90, shown=False)
    (machine.out / "ncu.txt").write_text(text)
    machine.say(f"ncu: exit {counted}, {len(text)} characters in ncu.txt")
    return {**result, "ncu": counted}


def record(machine: Machine, name: str, result: Result) -> None:
    """Enter a part's result in gpu_check.json, whose other parts stay."""
    path = machine.out / "gpu_check.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    report[name] = result
    waiting = path.with_suffix(".new")
    waiting.write_text(json.dumps(report, indent=1, default=str) + "\n")
    waiting.replace(path)


def outcome(result: Result) -> str:
    if "status" not in result:
        return f"left out: {result.get('left out', '')}"
    return ("passed" if result["status"] == 0 else "FAILED") + (
        f", {result['left out']}" if "left out" in result else ""
    )


def main() -> int:
    """Run the parts that are asked for; status 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--host", action="store_true", help="rehearsal without a GPU, in small")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="end what has not ended by then; 0: the parts' own limits"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part: {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    machine = Machine(arguments.host, Path(os.environ.get("OUT", ROOT / "outputs" / "gpu_check")))
    if arguments.minutes:
        machine.deadline = time.monotonic() + 60 * arguments.minutes
    found = requirements(machine)
    record(machine, "requirements", found)
    if not arguments.host and found["device"].startswith("MISSING"):
        machine.say("torch sees no CUDA device; rehearse with --host")
        return 1
    functions: dict[str, Callable[[Machine], Result]] = {
        "build": build, "tests": tests, "sanitize": sanitize, "benchmark": benchmark, "profile": profile,
    }  # fmt: skip
    outcomes = {}
    for name in arguments.parts or PARTS:
        machine.say(f"\n######## {name}")
        begin = time.monotonic()
        try:
            result = functions[name](machine)
        except Exception as error:  # the next part may work
            result = {"status": 1, "error": f"{type(error).__name__}: {error}"}
            machine.say(result["error"])
        result["seconds"] = round(time.monotonic() - begin, 1)
        record(machine, name, result)
        outcomes[name] = result
        machine.say(f"######## {name}: {outcome(result)}, {result['seconds']} s")
    machine.say("")
    for name, result in outcomes.items():
        machine.say(f"{name:<10} {outcome(result)}")
    return int(any(result.get("status", 0) != 0 for result in outcomes.values()))


if __name__ == "__main__":
    raise SystemExit(main())
