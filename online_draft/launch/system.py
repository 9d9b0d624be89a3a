"""One machine's whole system: Redis, Ray, replicas, ingress, learner, control. Leaves no process behind."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from online_draft.errors import ConfigError, LaunchError, OnlineDraftError
from online_draft.launch import ray_local
from online_draft.launch.access import check_access
from online_draft.launch.front_door import FrontDoor
from online_draft.launch.interrupts import Interrupts
from online_draft.launch.ports import check_port, free_port
from online_draft.launch.processes import adopt_orphans, command, descendants, end_all, start_ticks
from online_draft.launch.run_file import RunFile, find_run_files
from online_draft.launch.service import (
    actor_places,
    check_targets,
    control_place,
    learner_place,
    service_parts,
)
from online_draft.logs import set_up_logs
from online_draft.redis_server import PrivateRedis
from online_draft.serve.config import ListenConfig
from online_draft.settings import Settings
from online_draft.store.keys import of_realm

logger = logging.getLogger(__name__)

WATCH_INTERVAL_S = 1.0


class LocalSystem:
    """Starts everything on entering, ends everything on leaving, also when starting fails or is interrupted.

    SIGTERM and SIGHUP end it like Ctrl-C, by KeyboardInterrupt in the main thread.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None] = lambda line: None) -> None:
        self._settings = settings
        self._say = say
        self._undo: list[tuple[str, Callable[[], object]]] = []
        self._redis: PrivateRedis | None = None
        self._interrupts = Interrupts(say)
        self._temp_dir = ""
        self._before: frozenset[int] = frozenset()
        self.run: RunFile | None = None

    def __enter__(self) -> LocalSystem:
        """Start. ConfigError, LaunchError or whatever interrupted it; nothing is left running then."""
        self._interrupts.catch()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End everything that was started, last first. A second Ctrl-C is ignored meanwhile. Idempotent."""
        self._interrupts.ignore()
        while self._undo:
            what, undo = self._undo.pop()
            try:
                undo()
            except Exception:
                logger.warning("%s did not end cleanly", what, exc_info=True)
        self._interrupts.restore()

    def wait(self) -> None:
        """Block until a signal. A private Redis that died is started again; a dead Ray is a LaunchError."""
        import ray

        pause = threading.Event()
        while not pause.wait(WATCH_INTERVAL_S):
            if self._redis is not None and self._redis.pid is None:
                logger.warning("redis died and is started again")
                self._redis.start()
            self._write_run_file()
            if not ray.is_initialized():
                raise LaunchError("ray is gone")

    def _start(self) -> None:
        settings = self._settings
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        running = [
            run for run in find_run_files(settings.state_dir) if run.state_dir == str(settings.state_dir)
        ]
        if running:
            raise ConfigError(
                "state_dir",
                f"a system runs from {settings.state_dir} already (pid {running[0].pid}); end it with "
                "`online-draft down` or choose another directory",
            )
        # What can be found wrong at once is, before anything starts.
        check_targets(settings)
        self._say(check_access(settings))
        tls = settings.tls
        files = (str(tls.cert), str(tls.key)) if tls.cert is not None else None
        set_up_logs(replace(settings.log, file=str(settings.log_file)), "launcher")
        port = settings.port or free_port(settings.host)
        check_port(settings.host, port)
        temp_dir = self._temp_dir = tempfile.mkdtemp(prefix="od-", dir=settings.ray.temp_dir)
        self._undo.append(("the temporary directory", lambda: shutil.rmtree(temp_dir, ignore_errors=True)))
        self._before = frozenset(descendants(os.getpid()))
        adopt_orphans()
        self._undo.append(("processes", self._sweep))
        redis_url = settings.redis.url or self._start_redis(temp_dir)
        self._start_ray(temp_dir)
        key = settings.admin_key.get_secret_value() if settings.admin_key else secrets.token_urlsafe(24)
        listen = None
        if settings.ray.address is None:  # else the ingress may be on another machine
            door = FrontDoor(settings.host, port, Path(temp_dir) / "door")
            self._undo.append(("the listening socket", door.close))
            door.open()
            listen = ListenConfig(str(door.path), *(files or ()))

        from online_draft.serve.application import APP_NAME, INGRESS, REPLICA, build_service

        for model in settings.each:
            self._say(f"starting {model.replicas} replica(s) of {model.target} on {model.device}")
        parts = service_parts(settings, redis_url, key, listen)
        application = build_service(parts)
        self._undo.append(("the application", lambda: ray_local.undeploy(APP_NAME, INGRESS)))
        ray_local.deploy(
            application,
            APP_NAME,
            settings.host,
            port,
            settings.start_timeout_s,
            files,
            proxy=listen is None,
        )
        fingerprints = [
            str(ray_local.ask_replica(APP_NAME, of_realm(REPLICA, part.config.realm), 10.0)["origin"])
            for part in parts
        ]
        for model, place in actor_places(settings, parts, fingerprints, ray_local.NAMESPACE):
            self._start_actors(model, place)
        self.run = RunFile(
            pid=os.getpid(),
            host=settings.host,
            port=port,
            model=parts[0].config.model_name,
            target=parts[0].config.target,
            fingerprint=fingerprints[0],
            models={part.config.model_name: each for part, each in zip(parts, fingerprints, strict=True)},
            admin_key=key,
            redis_url=redis_url,
            state_dir=str(settings.state_dir),
            temp_dir=temp_dir,
            helpers={},
            started={},
            tls_cert=files[0] if files is not None else None,
        )
        self._undo.append(("the run file", self.run.remove))
        self._write_run_file()

    def _start_redis(self, temp_dir: str) -> str:
        self._say("starting a private redis")
        self._redis = PrivateRedis(Path(temp_dir) / "redis", maxmemory=self._settings.redis.maxmemory)
        self._undo.append(("redis", self._redis.stop))
        self._redis.start()
        return self._redis.url

    def _start_ray(self, temp_dir: str) -> None:
        settings = self._settings
        self._undo.append(("ray", ray_local.leave_ray))
        if settings.ray.address is not None:
            ray_local.join_ray(settings.ray.address)
        else:
            self._say("starting a private ray")
            models = settings.each
            gpus = 1 if any(model.device == "cuda" for model in models) else 0
            # Ray crashes at exit, and leaves agents behind, when it is interrupted while it starts.
            with self._interrupts.deferred("ends as soon as ray is up; again to end at once"):
                replicas = sum(max(model.replicas, model.scaling.max_replicas or 1) for model in models)
                ray_local.start_ray(f"{temp_dir}/ray", replicas, settings.ray.object_store_mb, gpus)

    def _start_actors(self, settings: Settings, place: dict[str, Any]) -> None:
        """A model's learner, and its control, which looks after it."""
        from online_draft.control.actor import NAME as CONTROL
        from online_draft.control.actor import start_control
        from online_draft.learner.actor import NAME as LEARNER
        from online_draft.learner.actor import start_learner, stop_learner

        learner, control = of_realm(LEARNER, settings.realm), of_realm(CONTROL, settings.realm)
        revive = None
        try:
            if settings.learner.mode != "off":
                self._say(f"starting the learner{f' of {settings.served_name}' if settings.realm else ''}")
                self._undo.append(("the learner", partial(stop_learner, ray_local.NAMESPACE, learner)))
                revive = partial(start_learner, learner_place(place, settings), settings.learner)
                revive()
            if settings.control.enabled:
                self._undo.append(("control", partial(ray_local.end_actor, control)))
                start_control(control_place(place, settings), settings.control, revive)
        except Exception as error:
            if isinstance(error, OnlineDraftError):
                raise
            raise LaunchError(f"learner or control did not start: {error}") from error

    def _write_run_file(self) -> None:
        assert self.run is not None
        helpers = {f"{Path(command(pid).split(' ')[0]).name} {pid}": pid for pid in self._our_processes()}
        if helpers == self.run.helpers:
            return
        started = {str(pid): start_ticks(pid) for pid in (self.run.pid, *helpers.values())}
        known = {pid: ticks for pid, ticks in started.items() if ticks is not None}
        self.run = replace(self.run, helpers=helpers, started=known)
        self.run.write()

    def _our_processes(self) -> list[int]:
        """Redis and Ray with all that they started; nothing else that this process may have started."""
        found = []
        for pid in descendants(os.getpid()):
            shown = command(pid)
            if pid not in self._before and (shown.startswith("ray::") or self._temp_dir in shown):
                found.append(pid)
        return found

    def _sweep(self) -> None:
        """End what outlived Redis and Ray."""
        end_all(self._our_processes(), 3.0)
        adopt_orphans(False)
