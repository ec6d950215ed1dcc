# SPDX-License-Identifier: Apache-2.0
"""Python programs in processes of their own that import our tests."""

from pathlib import Path

TESTS = Path(__file__).resolve().parent

OUR_TESTS = f"""
import sys, types
sys.path[:] = [entry for entry in sys.path if entry]
sys.modules["tests"] = types.ModuleType("tests")
sys.modules["tests"].__path__ = [{str(TESTS)!r}]
"""
"""First lines of a program that imports from `tests`: a dependency of nerfstudio installs a package of that name, which
a plain import would find instead of ours, and the folder that it runs in may hold the package's sources, which lack
the compiled part."""
