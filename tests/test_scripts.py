# SPDX-License-Identifier: Apache-2.0
"""What the README's commands say before they download anything."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
WITHOUT_HEADERS = f"""#!/bin/sh
case "$2" in
*sysconfig*) echo /nowhere/include ;;
*) exec '{sys.executable}' "$@" ;;
esac
"""
"""A Python whose headers are not installed."""


@pytest.mark.skipif(sys.platform == "win32", reason="shell scripts")
@pytest.mark.parametrize("script", ["run_example.sh", "run_tests.sh"])
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CXX": "no-such-compiler"}, "no C++ compiler found, CXX=no-such-compiler (Debian/Ubuntu: apt install g++)"),
        ({"CXX": "false"}, "false does not compile C++17"),
        ({"NS_DIFF3R_PYTHON": "without_headers"}, "are missing, /nowhere/include/Python.h (Debian/Ubuntu: apt install"),
        ({"NS_DIFF3R_PYTHON": "false"}, "NS_DIFF3R_PYTHON=false is not a Python 3.10, 3.11 or 3.12"),
    ],
)
def test_what_is_missing_is_named_before_an_environment_is_made(script, environment, message, tmp_path):
    python = tmp_path / "without_headers"
    python.write_text(WITHOUT_HEADERS)
    python.chmod(0o755)
    names = {"NS_DIFF3R_PYTHON": sys.executable, "NS_DIFF3R_VENV": str(tmp_path / "venv"), **environment}
    if names["NS_DIFF3R_PYTHON"] == python.name:
        names["NS_DIFF3R_PYTHON"] = str(python)
    done = subprocess.run(
        ["bash", str(REPOSITORY / "scripts" / script)],
        env={**os.environ, **names, "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "venv").exists()
