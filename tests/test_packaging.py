# SPDX-License-Identifier: Apache-2.0
"""What importing costs, and that what is named is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ns_diff3r

REPOSITORY = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "numpy", "nerfstudio", "gsplat", "ns_diff3r.extension", "ns_diff3r._cpu", "PIL", "plyfile")
HEAVY += ("ns_diff3r._cuda", "ns_diff3r._cuda_host")


def imported_by(statement: str) -> set[str]:
    """Modules that a fresh interpreter holds after `statement`."""
    code = f"import sys; {statement}; print(chr(10).join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_heavy():
    """nerfstudio imports it in every one of its commands."""
    loaded = imported_by("import ns_diff3r; ns_diff3r.__version__; dir(ns_diff3r)")
    assert "ns_diff3r" in loaded
    assert not loaded & set(HEAVY)


def test_the_command_line_answers_help_without_torch():
    loaded = imported_by("import ns_diff3r.cli.main")
    assert not loaded & {"torch", "nerfstudio", "gsplat", "ns_diff3r._cpu"}


def test_no_part_of_the_core_imports_nerfstudio():
    parts = ("splats", "rasterization", "solver", "data", "backbones", "cli.main")
    parts += ("training.run", "evaluation.evaluate", "backbones.weights.loading", "training.predicted_poses")
    loaded = imported_by("; ".join(f"import ns_diff3r.{part}" for part in parts))
    assert not loaded & {"nerfstudio", "gsplat"}
    # What the official code of the backbones needs and ours does without.
    assert not loaded & {"torchvision", "xformers", "e3nn", "lightning", "hydra", "huggingface_hub"}


@pytest.mark.parametrize("name", ns_diff3r.__all__)
def test_every_public_name_resolves(name):
    assert getattr(ns_diff3r, name) is not None
    assert name in dir(ns_diff3r)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        _ = ns_diff3r.nothing_of_ours


def test_installed_metadata_agrees_with_the_package():
    """Where it is installed (not where the source tree is on the path)."""
    from importlib.metadata import PackageNotFoundError, entry_points, version

    try:
        installed = version("ns-diff3r")
    except PackageNotFoundError:
        pytest.skip("ns-diff3r is not installed here, the source tree is on the path")
    assert installed == ns_diff3r.__version__
    (script,) = entry_points(group="console_scripts", name="ns-diff3r")
    assert callable(script.load())


def test_every_source_file_names_its_licence():
    patterns = (
        "ns_diff3r/**/*.py",
        "ns_diff3r/csrc/**/*.h",
        "ns_diff3r/csrc/**/*.cpp",
        "tests/**/*.py",
        "examples/*.py",
    )
    files = [path for pattern in patterns for path in REPOSITORY.glob(pattern)]
    assert len(files) > 50
    without = [
        path for path in files if "SPDX-License-Identifier: Apache-2.0" not in path.read_text().split("\n", 1)[0]
    ]
    assert not without


def test_imports_run_one_way():
    """training, evaluation → data, backbones → solver → rasterization → splats; none of them imports nerfstudio."""
    below = {"splats": set(), "rasterization": {"splats"}, "solver": {"splats", "rasterization"}}
    below["data"] = below["backbones"] = {"splats", "rasterization", "solver"}
    below["training"] = below["data"] | {"data", "backbones"}
    below["evaluation"] = below["training"] | {"training"}
    for layer, allowed in below.items():
        for path in (REPOSITORY / "ns_diff3r" / layer).rglob("*.py"):
            text = path.read_text()
            depth = len(path.relative_to(REPOSITORY / "ns_diff3r").parts)
            names = set(re.findall(rf"^\s*from \.{{{depth}}}(\w+)", text, re.M)) - {
                "extension",
                "dataclass_state",
                "cuda_launch",
            }
            assert names <= allowed, f"{path} imports {names - allowed}"
            assert not re.search(r"^\s*(from|import) (nerfstudio|gsplat)", text, re.M), path
