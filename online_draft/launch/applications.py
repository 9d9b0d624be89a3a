"""What a Serve config names: the service, and beside it what keeps learners and controls running.

`serve deploy` and KubeRay know import paths, not our launcher: `online_draft.launch:app` and
`online_draft.launch:control_app`. Both take the same `args`: settings, nested like the tree, over environment
and file. Every node must see the same `state_dir`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any, cast

from ray import serve
from ray.serve import Application

from online_draft.errors import ConfigError
from online_draft.launch.access import check_access
from online_draft.launch.ray_local import NAMESPACE, end_actor
from online_draft.launch.service import (
    actor_places,
    check_targets,
    control_place,
    learner_place,
    service_parts,
)
from online_draft.registry.revision import code_version
from online_draft.serve.application import APP_NAME, REPLICA, Part, build_service
from online_draft.serve.membership import check_code
from online_draft.settings import Settings, load_settings
from online_draft.store.keys import of_realm

logger = logging.getLogger(__name__)

KEEPER = "Keeper"
RETRY_S = 2.0
CHECK_EVERY_S = 10.0
ANSWER_TIMEOUT_S = 10.0


def app(args: Mapping[str, Any]) -> Application:
    """The service as a Serve application, for `import_path`. ConfigError names what a cluster needs."""
    settings = cluster_settings(args)
    check_targets(settings)
    try:
        logger.info(check_access(settings))
    except ConfigError as error:
        if error.field != "host":
            raise
        logger.warning("nobody is let in until there are API keys: %s", error)
    return build_service(_parts(settings))


def control_app(args: Mapping[str, Any]) -> Application:
    """A Serve application without a route: has learners and controls run, and starts again what is gone.

    They are detached actors and outlive it, so that a new version of it finds them.
    """
    settings = cluster_settings(args)
    keeper = cast(Any, serve.deployment)(
        Keeper,
        name=KEEPER,
        num_replicas=1,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=10.0,
        health_check_timeout_s=30.0,
    )
    return cast(Application, keeper.bind(settings, _code(settings)))


def cluster_settings(args: Mapping[str, Any]) -> Settings:
    """Settings of a service for which nothing is started or drawn. ConfigError for what it needs."""
    settings = load_settings(dict(args))
    if settings.redis.url is None:
        raise ConfigError(
            "redis.url", "a Serve config needs a Redis of yours: redis://, rediss:// or unix://"
        )
    if settings.admin_key is None:
        raise ConfigError("admin_key", "a Serve config needs one; nothing keeps one that is drawn")
    return settings


class Keeper:
    """The deployment: a thread that looks whether every model's control runs with these settings and this
    code, and starts it, with its learner, if not.

    A learner's health is its control's task. What fails is logged and tried again; it never makes the
    application unhealthy, since serving goes on without both.
    """

    def __init__(self, settings: Settings, code: str = "") -> None:
        """NodeRefused when this node runs other code than `code`, which its actors would have, too."""
        check_code(code)
        self._settings = settings
        self._parts = _parts(settings)
        self._stop = threading.Event()
        self._trouble = "waits for a replica"
        self._starts = 0
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    def status(self) -> dict[str, Any]:
        """Plain data: how many models' actors had to be started, and what is wrong now, "" for nothing."""
        return {"starts": self._starts, "trouble": self._trouble}

    def check_health(self) -> None:
        """Ray Serve replaces a keeper whose thread has ended."""
        if not self._thread.is_alive():
            raise RuntimeError("the keeper's thread has ended")

    def __del__(self) -> None:
        """Ray Serve calls this when the application is removed."""
        if hasattr(self, "_stop"):
            self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._ensure()
                self._trouble = ""
            except Exception as error:
                trouble = f"{type(error).__name__}: {error}"
                if trouble != self._trouble:
                    logger.warning("learner and control can't be started yet: %s", trouble)
                self._trouble = trouble
            self._stop.wait(RETRY_S if self._trouble else CHECK_EVERY_S)

    def _ensure(self) -> None:
        fingerprints = [_fingerprint(part) for part in self._parts]
        for model, place in actor_places(self._settings, self._parts, fingerprints, NAMESPACE):
            self._starts += ensure_actors(model, place)


def ensure_actors(settings: Settings, place: Mapping[str, Any]) -> bool:
    """Have a model's learner and control run at this code and with these settings; whether that took a start.

    Blocks until they answer; raises Ray's errors.
    """
    from online_draft.control import actor as control
    from online_draft.learner import actor as learner

    namespace, realm = str(place["namespace"]), settings.realm
    names = {"control": of_realm(control.NAME, realm), "learner": of_realm(learner.NAME, realm)}
    place = {**place, "settings": _digest(place, settings)}
    learns = settings.learner.mode != "off"
    keeps = "control" if settings.control.enabled else "learner" if learns else None
    if keeps is None or _settings_of(names[keeps], namespace) == place["settings"]:
        return False
    _end(names["control"], namespace)  # before the learner, which it would revive
    learner.stop_learner(namespace, names["learner"])
    revive = None
    if learns:
        revive = partial(learner.start_learner, learner_place(place, settings), settings.learner)
        revive()
    if settings.control.enabled:
        control.start_control(control_place(place, settings), settings.control, revive)
    return True


def _parts(settings: Settings) -> list[Part]:
    assert settings.redis.url is not None and settings.admin_key is not None
    parts = service_parts(settings, settings.redis.url, settings.admin_key.get_secret_value())
    code = _code(settings)
    return [replace(part, config=replace(part.config, shared=True, code=code)) for part in parts]


def _code(settings: Settings) -> str:
    """What all nodes must run: what runs here, or anything."""
    return "" if settings.ray.other_code else code_version()


def _fingerprint(part: Part) -> str:
    handle: Any = serve.get_deployment_handle(of_realm(REPLICA, part.config.realm), APP_NAME)
    return str(handle.status.remote().result(timeout_s=ANSWER_TIMEOUT_S)["origin"])


def _settings_of(name: str, namespace: str) -> str | None:
    """The digest that an actor was started with; None while there is none."""
    import ray

    try:
        actor: Any = ray.get_actor(name, namespace=namespace)
    except ValueError:
        return None
    found: str = cast(Any, ray).get(actor.settings.remote(), timeout=ANSWER_TIMEOUT_S)
    return found


def _digest(place: Mapping[str, Any], settings: Settings) -> str:
    further = [settings.redis.learner_url, settings.redis.control_url, settings.webhooks.revealed()]
    told = [code_version(), dict(place), asdict(settings.learner), asdict(settings.control), *further]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _end(name: str, namespace: str) -> None:
    """Returns when the name is free."""
    import ray

    end_actor(name)
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            ray.get_actor(name, namespace=namespace)
        except ValueError:
            return
        time.sleep(0.05)
