# SPDX-License-Identifier: Apache-2.0
"""Work memory comes uninitialised; in these tests it is filled with NaN and large integers."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _poisoned_memory():
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
