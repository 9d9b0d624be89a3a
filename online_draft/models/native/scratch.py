"""Arrays whose address compiled code may be told once: asking numpy for it takes longer than filling them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Scratch:
    """A flat array that is used again by every call; it grows when more is wanted, and `address` changes."""

    def __init__(self, dtype: type[np.generic] = np.int64) -> None:
        self._dtype = dtype
        self._whole: NDArray[Any] = np.empty(0, dtype)
        self.address = 0
        self.take(64)

    def take(self, size: int) -> NDArray[Any]:
        """The first `size` entries, with whatever the last call left there."""
        if len(self._whole) < size:
            self._whole = np.empty(2 * size, self._dtype)
            self.address = self._whole.ctypes.data
        return self._whole[:size]
