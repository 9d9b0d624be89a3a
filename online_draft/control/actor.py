"""Control as a named, detached Ray actor at normal priority."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, cast

from online_draft.control.config import ControlConfig, ControlPlace
from online_draft.control.keeper import LearnerKeeper
from online_draft.control.loop import ControlLoop
from online_draft.control.webhooks.config import WebhookConfig
from online_draft.logs import set_up_logs_of
from online_draft.registry.revision import code_version
from online_draft.store.keys import of_realm

logger = logging.getLogger(__name__)

NAME = "control"
LEARNER = "learner"
START_TIMEOUT_S = 60.0


class ControlActor:
    """Runs a `ControlLoop` on a thread of its own. Every method answers at once."""

    def __init__(
        self, place: Mapping[str, Any], config: Mapping[str, Any], revive: Callable[[], None] | None
    ) -> None:
        set_up_logs_of(place, "control")
        self._given = str(place.get("settings", ""))
        settings = ControlConfig.from_dict(config)
        keeper = None
        if revive is not None:
            keeper = LearnerKeeper(
                settings, code_version(), lambda timeout_s: ping_learner(place, timeout_s), revive
            )
        webhooks = WebhookConfig(**place.get("webhooks", {}))
        self._loop = ControlLoop(ControlPlace.from_dict(place), settings, keeper, webhooks=webhooks)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._loop.run, args=(self._stop,), name="control", daemon=True
        )
        self._thread.start()

    def status(self) -> dict[str, Any]:
        """Plain data; `alive` says whether the thread runs."""
        return {**self._loop.status(), "alive": self._thread.is_alive()}

    def code_version(self) -> str:
        """The code that this actor runs."""
        return code_version()

    def settings(self) -> str:
        """What `place["settings"]` said: tells settings apart."""
        return self._given

    def shutdown(self, timeout_s: float = 5.0) -> bool:
        """End the thread; whether it ended in time. Idempotent."""
        self._stop.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


def ping_learner(place: Mapping[str, Any], timeout_s: float) -> str:
    """The learner's code version, "" when its thread has ended. Raises without an answer."""
    import ray

    name = of_realm(LEARNER, str(place.get("realm", "")))
    actor: Any = ray.get_actor(name, namespace=str(place["namespace"]))
    alive, version = cast(Any, ray).get(
        [actor.alive.remote(), actor.code_version.remote()], timeout=timeout_s
    )
    return str(version) if alive else ""


def start_control(
    place: Mapping[str, Any], config: ControlConfig, revive: Callable[[], None] | None = None
) -> None:
    """Have control run at this code version. Idempotent; blocks until the actor answers; raises Ray's errors.

    `place` as in `ControlPlace`, with the Ray `namespace` and `webhooks` as in `WebhookConfig`. `revive`
    starts the learner anew; it is called in control's process. Without it nobody looks after the learner.
    """
    import ray

    if _start(place, config, revive) != code_version():
        logger.warning("control runs other code and is replaced")
        actor = ray.get_actor(of_realm(NAME, str(place.get("realm", ""))), namespace=str(place["namespace"]))
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(actor.shutdown.remote(), timeout=START_TIMEOUT_S)
        ray.kill(actor)
        _start(place, config, revive)


def _start(place: Mapping[str, Any], config: ControlConfig, revive: Callable[[], None] | None) -> str:
    import ray

    options: dict[str, Any] = {
        "name": of_realm(NAME, str(place.get("realm", ""))),
        "namespace": place["namespace"],
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": -1,
    }
    actor: Any = ray.remote(ControlActor).options(**options).remote(dict(place), asdict(config), revive)
    answer: str = cast(Any, ray).get(actor.code_version.remote(), timeout=START_TIMEOUT_S)
    return answer
