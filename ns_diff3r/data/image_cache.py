# SPDX-License-Identifier: Apache-2.0
"""Images kept in memory up to a number of bytes, the least recently used given up first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

from jaxtyping import Float
from torch import Tensor


class ImageCache:
    """Least recently used images, at most `max_bytes` of them in total; safe to use from several threads.

    An image larger than the whole cache is passed through and not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ValueError(f"ImageCache: max_bytes must not be negative, got {max_bytes}")
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._images: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._images)

    def get(self, key: Hashable, read: Callable[[], Float[Tensor, "H W 3"]]) -> Float[Tensor, "H W 3"]:
        """The image of that key, read where it is not at hand. The result is shared: do not write to it."""
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
                return self._images[key]
        image = read()  # outside the lock: another thread may read other images meanwhile
        size = image.numel() * image.element_size()
        with self._lock:
            if key not in self._images and size <= self.max_bytes:
                self._images[key] = image
                self.num_bytes += size
                while self.num_bytes > self.max_bytes:
                    _, dropped = self._images.popitem(last=False)
                    self.num_bytes -= dropped.numel() * dropped.element_size()
        return image
