# SPDX-License-Identifier: Apache-2.0
"""What every test shares: where real data lies, and imports that prefer the installed package over the checkout."""

import os
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Test modules share helpers as `tests.<folder>.<module>`. Appended, not prepended: the installed package, with its
# compiled extension, wins over the source tree.
sys.path.append(str(REPOSITORY))


def shared_path(*parts: str) -> Path:
    """Path in the folder of real data beside the repository (or in $NS_DIFF3R_SHARED); it may not exist."""
    return Path(os.environ.get("NS_DIFF3R_SHARED", REPOSITORY.parent / "shared")).joinpath(*parts)


@pytest.fixture(scope="session")
def dev_scenes() -> Path:
    """Folder with one nerfstudio scene per sub-folder; the test is skipped where it is absent."""
    path = shared_path("data", "dev")
    if not path.is_dir():
        pytest.skip("real scenes are not at hand (../shared/data/dev or $NS_DIFF3R_SHARED/data/dev)")
    return path


@pytest.fixture(scope="session")
def splat_files() -> Path:
    """Folder of trained splats in several formats; the test is skipped where it is absent."""
    path = shared_path("data", "splats")
    if not path.is_dir():
        pytest.skip("trained splats are not at hand (../shared/data/splats or $NS_DIFF3R_SHARED/data/splats)")
    return path
