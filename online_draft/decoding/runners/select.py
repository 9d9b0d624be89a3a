"""Which runner an engine has: torch at once, compiled code as soon as it is ready; CUDA graphs on CUDA."""

from __future__ import annotations

import logging
import threading

from online_draft.decoding.config import EngineConfig
from online_draft.decoding.runners.base import Memory, Runner
from online_draft.decoding.runners.capture import CudaCapture
from online_draft.decoding.runners.eager import EagerRunner
from online_draft.decoding.runners.graphed import GraphedRunner
from online_draft.decoding.runners.native import NativeRunner
from online_draft.models.native.backend import NativeBackend, supports
from online_draft.models.native.build import kernels
from online_draft.models.target import Target

logger = logging.getLogger(__name__)


class RunnerChoice:
    """Makes runners for one target.

    With `kernels` "auto" compiled code is built and the weights are packed in the background while torch
    serves; "wait" waits for it; "off", an unsupported target or no compiler leave torch. On CUDA both "auto"
    and "wait" mean recorded steps, which are made while serving; where they fail, torch goes on.
    """

    def __init__(self, target: Target, config: EngineConfig) -> None:
        self._target = target
        self._config = config
        self._threads = config.threads
        self._graphs = config.kernels != "off" and target.device.type == "cuda"
        self._backend: NativeBackend | None = None
        self._packed: NativeBackend | None = None
        self._thread: threading.Thread | None = None
        self._fell_back = False
        if config.kernels != "off" and supports(target):
            kernels.start()
            if config.kernels == "wait" or kernels.get() is not None:
                self._backend = self._pack()
            else:
                self._thread = threading.Thread(target=self._prepare, name="pack", daemon=True)
                self._thread.start()

    @property
    def pending(self) -> bool:
        """Whether a runner of another kind may come."""
        return self._fell_back or self._thread is not None

    @property
    def kernel(self) -> str:
        """What a runner made now is: "native", "graphed" or "eager"."""
        if self._backend is None:
            return "graphed" if self._graphs else "eager"
        return "native"

    @property
    def identity(self) -> str:
        """What a profile of this runner's steps holds for: the kind, and the build of compiled code."""
        build = kernels.path if self._backend is not None else None
        return self.kernel if build is None else f"{self.kernel} {build.stem}"

    @property
    def padded(self) -> bool:
        """Whether steps are run at the sizes of the profile's buckets."""
        return self._graphs

    @property
    def threads(self) -> int | None:
        """Threads of compiled code, None for torch's own."""
        return None if self._backend is None else self._backend.pool.threads

    def make(self, memory: Memory) -> Runner:
        """The best runner that is ready. Each has scratch of its own."""
        if self._backend is not None:
            return NativeRunner(self._backend, memory)
        if self._graphs:
            try:
                capture = CudaCapture(self._target.device)
                return GraphedRunner(
                    self._target, memory, self._config, capture, given_up=self._without_graphs
                )
            except RuntimeError as error:
                logger.warning("decoding runs without CUDA graphs: %s", error)
                self._without_graphs()
        return EagerRunner(self._target, memory)

    def changed(self) -> bool:
        """Whether `make` gives another kind of runner since the last call: a better one is ready, or graphs
        were given up. Never blocks."""
        if self._fell_back:
            self._fell_back = False
            return True
        if self._thread is None or self._thread.is_alive():
            return False
        self._thread = None
        self._backend = self._packed
        return self._backend is not None

    def _without_graphs(self) -> None:
        self._graphs, self._fell_back = False, True

    def _prepare(self) -> None:
        """In the background. Counts from `changed` on: until then all runners are of one kind."""
        self._packed = self._pack()

    def _pack(self) -> NativeBackend | None:
        library = kernels.wait()
        if library is None:
            return None
        try:
            return NativeBackend(library, self._target, self._threads)
        except (MemoryError, RuntimeError) as error:
            logger.warning("decoding runs without compiled kernels: the weights can't be packed: %s", error)
            return None
