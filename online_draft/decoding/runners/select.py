"""Which runner an engine has: torch at once, compiled code as soon as it is ready."""

from __future__ import annotations

import logging
import threading

from online_draft.decoding.config import EngineConfig
from online_draft.decoding.runners.base import Memory, Runner
from online_draft.decoding.runners.eager import EagerRunner
from online_draft.decoding.runners.native import NativeRunner
from online_draft.models.native.backend import NativeBackend, supports
from online_draft.models.native.build import kernels
from online_draft.models.target import Target

logger = logging.getLogger(__name__)


class RunnerChoice:
    """Makes runners for one target.

    With `kernels` "auto" compiled code is built and the weights are packed in the background while torch
    serves; "wait" waits for it; "off", an unsupported target or no compiler leave torch.
    """

    def __init__(self, target: Target, config: EngineConfig) -> None:
        self._target = target
        self._threads = config.threads
        self._backend: NativeBackend | None = None
        self._thread: threading.Thread | None = None
        if config.kernels != "off" and supports(target):
            kernels.start()
            if config.kernels == "wait" or kernels.get() is not None:
                self._prepare()
            else:
                self._thread = threading.Thread(target=self._prepare, name="pack", daemon=True)
                self._thread.start()

    @property
    def pending(self) -> bool:
        """Whether a better runner may come."""
        return self._thread is not None

    @property
    def kernel(self) -> str:
        """What a runner made now is: "native" or "eager"."""
        return "eager" if self._backend is None else "native"

    @property
    def threads(self) -> int | None:
        """Threads of compiled code, None for torch's own."""
        return None if self._backend is None else self._backend.pool.threads

    def make(self, memory: Memory) -> Runner:
        """The best runner that is ready. Each has scratch of its own."""
        if self._backend is not None:
            return NativeRunner(self._backend, memory)
        return EagerRunner(self._target, memory)

    def upgraded(self) -> bool:
        """Whether a better runner has become ready since the last call. Never blocks."""
        if self._thread is None or self._thread.is_alive():
            return False
        self._thread = None
        return self._backend is not None

    def _prepare(self) -> None:
        library = kernels.wait()
        if library is None:
            return
        try:
            self._backend = NativeBackend(library, self._target, self._threads)
        except (MemoryError, RuntimeError) as error:
            logger.warning("decoding runs without compiled kernels: the weights can't be packed: %s", error)
