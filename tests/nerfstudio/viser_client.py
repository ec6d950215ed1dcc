# SPDX-License-Identifier: Apache-2.0
"""A browser's part of viser's protocol: connect, say where the camera is, press buttons, receive pictures."""

from __future__ import annotations

import io
import time
from typing import Any

import msgspec
import numpy as np
from PIL import Image
from viser._messages import GuiUpdateMessage, ViewerCameraMessage
from websockets.sync.client import connect

FULL_SIZE = 512
"""Longer side of the picture of a camera that stands still: the viewer's "Max res"."""


class ViserClient:
    """One connected client. Messages of the server are kept in the order of their arrival."""

    def __init__(self, port: int, timeout: float = 60.0) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.socket = connect(f"ws://localhost:{port}", max_size=None, open_timeout=5, compression=None)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.3)
        self.messages: list[dict[str, Any]] = []

    def __enter__(self) -> ViserClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def look(self, position: tuple[float, float, float], wxyz: tuple[float, float, float, float]) -> None:
        """Place the camera (viser's world, OpenCV axes)."""
        message = ViewerCameraMessage(wxyz, position, 1.0, 4 / 3, (0.0, 0.0, 0.0), (0.0, 0.0, 1.0))
        self.socket.send(msgspec.msgpack.encode(message.as_serializable_dict()))

    def set(self, label: str, value: Any) -> None:
        """Change the control with this label, or press it (True)."""
        control = self.wait(lambda m: m.get("label") == label, whole=True)
        self.socket.send(
            msgspec.msgpack.encode(GuiUpdateMessage(control["id"], {"value": value}).as_serializable_dict())
        )

    def picture(self) -> np.ndarray:
        """The next picture of full size that arrives, [H, W, 3] 8 bit; smaller ones are sent while it is drawn."""
        while True:
            message = self.wait(lambda m: m["type"] == "BackgroundImageMessage" and m["rgb_bytes"] is not None)
            picture = np.asarray(Image.open(io.BytesIO(message["rgb_bytes"])).convert("RGB"))
            if max(picture.shape) == FULL_SIZE:
                return picture

    def next_different_picture(self, other: np.ndarray, tolerance: float = 1.0) -> np.ndarray:
        """The next picture of full size that differs from another one by more than its compression does."""
        while True:
            picture = self.picture()
            if np.abs(picture.astype(float) - other).mean() > tolerance:
                return picture

    def text(self, wanted: str) -> str:
        """The next text that a control is given and that contains `wanted`."""
        message = self.wait(lambda m: wanted in str(m.get("updates", {}).get("markdown")))
        return message["updates"]["markdown"]

    def wait(self, wanted: Any, timeout: float = 60.0, *, whole: bool = False) -> dict[str, Any]:
        """The next message that `wanted` accepts; `whole`: or the first of all so far."""
        if whole:
            for message in self.messages:
                if wanted(message):
                    return message
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                arrived = msgspec.msgpack.decode(self.socket.recv(timeout=deadline - time.monotonic()))
            except TimeoutError:
                break
            self.messages += arrived
            for message in arrived:
                if wanted(message):
                    return message
        kinds = sorted({message["type"] for message in self.messages})
        raise AssertionError(f"no such message among {len(self.messages)} of the kinds {kinds}")
