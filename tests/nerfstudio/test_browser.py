# SPDX-License-Identifier: Apache-2.0
"""nerfstudio's viewer as a visitor sees it: in a real browser, without a GPU."""

import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("nerfstudio")
pytestmark = [pytest.mark.nerfstudio, pytest.mark.slow]

from tests.nerfstudio.browser import Browser, browser_at  # noqa: E402
from tests.nerfstudio.conftest import ROOM, free_port, running  # noqa: E402

START = 7
"""Photograph in the middle of the context views, where the viewer places its visitors."""
ALIKE = 0.85
"""Correlation above which a picture shows the same as a photograph: measured 0.94 with its own one, 0.77 with the next
best; 0.67 where the viewer's own copy of the photograph, enlarged, hides the scene; 0 of a black window."""
SIZE = (48, 36)
CANVAS = """
(box => box ? [box.left, box.top, box.right, box.bottom] : null)
(document.querySelector("canvas[data-engine]")?.getBoundingClientRect())
"""


def test_a_visitor_sees_the_scene(trained_run, tmp_path):
    """The window shows the rendering from where one photograph was taken: it is like that one, and like no other."""
    photographs = [shrunk(Image.open(path)) for path in sorted((ROOM / "images").glob("*.jpg"))]
    port = free_port()
    viewer = running("ns-viewer", "--load-config", trained_run, "--viewer.websocket-port", port, folder=tmp_path)
    with viewer, browser_at(f"http://localhost:{port}", tmp_path) as browser:
        alike = np.zeros(len(photographs))
        deadline = time.monotonic() + 60
        while alike[START] < ALIKE and time.monotonic() < deadline:
            time.sleep(0.5)
            with suppress(TimeoutError):  # no picture is taken while the page is laid out
                shown = shrunk(scene_in(browser, tmp_path / "viewer.png"))
                alike = np.array([correlation(shown, photograph) for photograph in photographs])
    assert alike[START] > ALIKE
    assert np.delete(alike, START).max() < ALIKE


def scene_in(browser: Browser, file: Path) -> Image.Image:
    """The middle of the canvas in the aspect of the photographs, whose field of view the viewer has vertically.

    The whole window goes to `file`. TimeoutError while there is nothing to see.
    """
    box = browser.evaluate(CANVAS)
    if box is None or "Connected" not in browser.evaluate("document.body.innerText"):
        raise TimeoutError
    left, top, right, bottom = map(round, box)
    window = Image.fromarray(browser.screenshot())
    window.save(file)
    middle, half = (left + right) / 2, (bottom - top) * SIZE[0] / SIZE[1] / 2
    return window.crop((round(middle - half), top, round(middle + half), bottom))


def shrunk(image: Image.Image) -> np.ndarray:
    """A small copy, [H, W, 3], of mean 0 in every channel."""
    pixels = np.asarray(image.convert("RGB").resize(SIZE, Image.Resampling.BOX)).astype(float)
    return pixels - pixels.mean((0, 1))


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """From -1 to 1; 0 for a picture of one colour."""
    return float((first * second).sum() / max(1e-9, np.sqrt(np.square(first).sum() * np.square(second).sum())))
