# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium, driven over its DevTools protocol: open a page, ask it questions, take pictures of it."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--no-first-run", "--window-size=1440,700", "--remote-debugging-port=0"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"),
    # WebGL without a GPU
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"),
)


class Browser:
    """One page of a running browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.numbers = itertools.count(1)

    def call(self, method: str, timeout: float = 10.0, **parameters: Any) -> dict[str, Any]:
        """The result of one method of the protocol.

        Raises:
            AssertionError: it fails; with the browser's own words.
            TimeoutError: it does not answer.
        """
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv(timeout=timeout))
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self) -> np.ndarray:
        """What the window shows, [H, W, 3] 8 bit."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@contextmanager
def browser_at(address: str, folder: Path, timeout: float = 60.0) -> Iterator[Browser]:
    """A browser that shows the page at `address`, once that answers; its profile and its log are in `folder`.

    Skips the test where there is no browser.
    """
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser found: none of {', '.join(NAMES)} is installed")
    deadline = time.monotonic() + timeout
    _wait_for(address, deadline)
    profile = folder / "profile"
    with (folder / "browser.log").open("w") as log:
        process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", address],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with connect(_page_socket(profile, process, folder / "browser.log", deadline), max_size=None) as socket:
            yield Browser(socket)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(address: str, deadline: float) -> None:
    """Until the page can be had: a browser that comes too early shows an error for seconds."""
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _page_socket(profile: Path, process: subprocess.Popen[bytes], log: Path, deadline: float) -> str:
    """Address of the page's socket, as soon as the browser has written where it listens."""
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the browser ended with {process.returncode}:\n{log.read_text()}"
        try:
            port = (profile / "DevToolsActivePort").read_text().split()[0]
            targets = json.load(urllib.request.urlopen(f"http://localhost:{port}/json/list", timeout=5))
        except (OSError, IndexError):
            targets = []
        for target in targets:
            if target["type"] == "page":
                return target["webSocketDebuggerUrl"]
        time.sleep(0.2)
    raise AssertionError(f"the browser does not answer:\n{log.read_text()}")
