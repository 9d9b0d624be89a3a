"""The learner as a named, detached Ray actor. Imports torch only in the actor's own environment."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from online_draft.learner.config import LearnerConfig, LearnerPlace
from online_draft.learner.idle.timekeeping import niceness
from online_draft.logs import set_up_logs_of
from online_draft.registry.revision import code_version
from online_draft.store.keys import of_realm

if TYPE_CHECKING:
    from online_draft.learner.loop import LearnerLoop
    from online_draft.learner.retarget import OwnTarget

logger = logging.getLogger(__name__)

NAME = "learner"
GPU_SHARE = 0.25
START_TIMEOUT_S = 60.0
RETRY_S = 5.0
START_NICENESS = 10
"""While the target is read: with idle time alone a busy machine would never get through it."""

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "KMP_BLOCKTIME": "0",
    "TOKENIZERS_PARALLELISM": "false",
}
"""One thread that sleeps when it waits: spinning threads would slow serving down 10 to 30 times."""


class LearnerActor:
    """Runs a `LearnerLoop` on a thread of its own, at idle priority. Every method answers at once, at normal
    priority; what went wrong while starting is in `status` and tried again."""

    def __init__(self, place: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        set_up_logs_of(place, "learner")
        self._given = str(place.get("settings", ""))
        self._place = LearnerPlace.from_dict(place)
        self._config = LearnerConfig.from_dict(config)
        self._loop: LearnerLoop | None = None
        self._target: OwnTarget | None = None
        self._error: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="learner", daemon=True)
        self._thread.start()

    def status(self) -> dict[str, Any]:
        """Plain data; `alive` says whether the thread runs."""
        status = {"state": "waiting", "reason": "loading the target", "code_version": code_version()}
        if self._loop is not None:
            status = self._loop.status()
        return {**status, "alive": self._thread.is_alive(), "start_error": self._error}

    def code_version(self) -> str:
        """The code that this actor runs."""
        return code_version()

    def settings(self) -> str:
        """What `place["settings"]` said: tells settings apart."""
        return self._given

    def alive(self) -> bool:
        """Whether the learner's thread runs."""
        return self._thread.is_alive()

    def shutdown(self, timeout_s: float = 10.0) -> bool:
        """Write a checkpoint and end the thread; whether it ended in time. Idempotent."""
        self._stop.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        lower_priority(START_NICENESS)
        while not self._stop.is_set():
            try:
                self._loop = self._build()
            except Exception as error:
                logger.exception("the learner could not be started")
                self._error = f"{type(error).__name__}: {error}"
                self._stop.wait(RETRY_S)
                continue
            self._error = None
            lower_priority(niceness(self._config.pace.floor_share))
            self._loop.run(self._stop)  # until the end, or until the target was updated

    def _build(self) -> LearnerLoop:
        import torch

        from online_draft.learner.idle.gpu import bound_memory
        from online_draft.learner.loop import LearnerLoop
        from online_draft.learner.retarget import OwnTarget

        if self._target is None:
            torch.set_num_threads(1)
            bound_memory(self._place.device, self._config.gpu_memory_mb)
            self._target = OwnTarget.load(self._place, self._config.features)
        return LearnerLoop(self._place, self._config, self._target.current(), self._target.outdated)


def lower_priority(niceness: int | None = None) -> None:
    """Give the calling thread, and those it starts, only CPU time that nobody else wants; with a `niceness`
    a small share of contended CPU time (10: a tenth)."""
    with contextlib.suppress(OSError):
        if niceness is None:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19 if niceness is None else niceness)


def start_learner(place: Mapping[str, Any], config: LearnerConfig) -> None:
    """Have the learner run at this code version: start it, or replace one that runs other code, whose thread
    has ended or that gives no answer. Idempotent; blocks until the actor answers; Ray's errors.

    `place` as in `LearnerPlace`, with the Ray `namespace` and, where models share a GPU, its `gpu_share`.
    """
    import ray

    try:
        if _start(place, config) == code_version():
            return
    except ray.exceptions.GetTimeoutError:
        logger.warning("the learner doesn't answer")
    logger.warning("the learner is replaced")
    stop_learner(str(place["namespace"]), of_realm(NAME, str(place.get("realm", ""))))
    _start(place, config)


def stop_learner(namespace: str, name: str = NAME, timeout_s: float = 10.0) -> None:
    """End a learner after a checkpoint. Idempotent; blocks until its name is free."""
    import ray

    try:
        actor = ray.get_actor(name, namespace=namespace)
    except ValueError:
        return
    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(actor.shutdown.remote(timeout_s), timeout=timeout_s + 5)
    ray.kill(actor)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            ray.get_actor(name, namespace=namespace)
        except ValueError:
            return
        time.sleep(0.05)


def _start(place: Mapping[str, Any], config: LearnerConfig) -> str:
    """The code version of the actor that now runs under our name, "" if its thread has ended."""
    import ray

    on_gpu = str(place.get("device", "cpu")).startswith("cuda")
    options: dict[str, Any] = {
        "name": of_realm(NAME, str(place.get("realm", ""))),
        "namespace": place["namespace"],
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "num_gpus": place.get("gpu_share", GPU_SHARE) if on_gpu else 0,
        "max_restarts": -1,
        "runtime_env": {"env_vars": ENVIRONMENT},
    }
    actor: Any = ray.remote(LearnerActor).options(**options).remote(dict(place), asdict(config))
    alive, version = cast(Any, ray).get(
        [actor.alive.remote(), actor.code_version.remote()], timeout=START_TIMEOUT_S
    )
    return str(version) if alive else ""
