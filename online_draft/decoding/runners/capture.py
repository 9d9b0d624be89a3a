"""How a step that works on static tensors is recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

GRAPH_MEMORY_SHARE = 0.2
"""Of the device memory that is free when the runner is made: what recorded steps may take in all."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded step: run it again, and the device memory that keeping it takes."""

    replay: Callable[[], None]
    nbytes: int


class Capture(Protocol):
    """Records steps. `step` has run before, works on tensors that stay, and never waits for the device."""

    @property
    def limit_bytes(self) -> int:
        """What all recorded steps may take together."""
        ...

    def record(self, step: Callable[[], None]) -> Recorded:
        """Record a step. It may, but need not, run while it is recorded."""
        ...


class CudaCapture:
    """CUDA graphs that share one memory pool. Not yet run on a device.

    A graph reads weights, cache and tables by address: changes in place are seen, moved tensors are not.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._limit = int(torch.cuda.mem_get_info(device)[0] * GRAPH_MEMORY_SHARE)

    @property
    def limit_bytes(self) -> int:
        """A share of the memory that was free at the start."""
        return self._limit

    def record(self, step: Callable[[], None]) -> Recorded:
        """Capture a graph. Other threads may use the device meanwhile."""
        with torch.cuda.device(self._device):
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            before = torch.cuda.mem_get_info()[0]
            graph = torch.cuda.CUDAGraph()
            serving = torch.cuda.current_stream()
            try:
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                ):
                    step()
            finally:
                # A capture that fails at its end leaves its own stream behind as the current one.
                torch.cuda.set_stream(serving)
            taken = before - torch.cuda.mem_get_info()[0]
        return Recorded(graph.replay, max(0, taken))
