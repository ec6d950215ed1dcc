# SPDX-License-Identifier: Apache-2.0
"""The folder of official outputs: nothing in it is passed over."""

import os
import re

import pytest

from tests.backbones.golden import VARIABLE, golden_folder


@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"${VARIABLE} names no folder")
def test_every_file_of_the_named_folder_is_compared():
    files = sorted(golden_folder().glob("*.npz"))
    assert files, f"${VARIABLE} is {golden_folder()}, where there is no .npz"
    others = [path.name for path in files if not re.match("depthsplat|da3", path.stem)]
    assert not others, f"{golden_folder()}: of no network that is tested here: {', '.join(others)}"
