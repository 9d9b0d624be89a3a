"""Talking to a running system's admin API, or deciding without one."""

from __future__ import annotations

import ssl
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol

import httpx

from online_draft.errors import ConfigError, RequestError, StoreError
from online_draft.launch.run_file import require_run_file
from online_draft.registry.journal import DecisionKind
from online_draft.registry.target_line import origins
from online_draft.serve.admin.adapters import AdapterDesk
from online_draft.serve.admin.desk import AdminDesk
from online_draft.settings import Settings
from online_draft.store import ArtifactStore, RedisKeys

TIMEOUT_S = 10.0
UPDATE_TIMEOUT_S = 3600.0


class Admin(Protocol):
    """What the commands need, online or offline."""

    def drafters(self) -> list[dict[str, Any]]:
        """All published versions."""
        ...

    def drafter(self, version: str) -> dict[str, Any]:
        """One version with the decisions about it."""
        ...

    def decide(self, kind: DecisionKind, version: str | None, reason: str) -> dict[str, Any]:
        """Decide; the decision as written."""
        ...

    def adapters(self) -> list[dict[str, Any]]:
        """All published adapters."""
        ...

    def load_adapter(self, adapter: str, reason: str) -> dict[str, Any]:
        """Decide that it drafts for its segment."""
        ...

    def target(self) -> dict[str, Any]:
        """The target's weights and their updates."""
        ...

    def drop_adapter(self, name: str, reason: str) -> dict[str, Any]:
        """Decide that it, or that of this segment, drafts no more."""
        ...


class OnlineAdmin:
    """A running system's admin API. OnlineDraftError with the API's own message when it says no."""

    _PATHS: ClassVar[dict[str, str]] = {
        "promote": "/drafters/{version}/promote",
        "refuse": "/drafters/{version}/reject",
        "roll_back": "/rollback",
        "pin": "/pin",
        "unpin": "/unpin",
        "pause": "/learner/pause",
        "resume": "/learner/resume",
    }

    def __init__(self, url: str, key: str, tls_cert: str | None = None, model: str | None = None) -> None:
        """With `tls_cert`, the certificate of a system on this machine, only that one is trusted, whatever
        host it names. `model` is whom questions are about, the first one by default."""
        verify: ssl.SSLContext | bool = True
        if tls_cert is not None:
            verify = ssl.create_default_context(cafile=tls_cert)
            verify.check_hostname = False
        self._client = httpx.Client(
            base_url=url.rstrip("/") + "/admin/api",
            headers={"Authorization": f"Bearer {key}"},
            params=None if model is None else {"model": model},
            timeout=TIMEOUT_S,
            verify=verify,
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._client.close()

    def status(self) -> dict[str, Any]:
        """Ladder, counts, books, replica, learner."""
        return self._ask("GET", "/status")

    def learner(self) -> dict[str, Any]:
        """The learner's own words."""
        return self._ask("GET", "/learner")

    def target(self) -> dict[str, Any]:
        """The target's weights and their updates."""
        return self._ask("GET", "/target")

    def update_target(self, path: str, reason: str, drain_s: float) -> dict[str, Any]:
        """Decide on other weights, which are read whole first; the decision as written."""
        body = {"path": path, "reason": reason, "drain_s": drain_s}
        return self._ask("POST", "/target/update", body, UPDATE_TIMEOUT_S)

    def speculation(self) -> str:
        """`auto` or `off`."""
        return str(self._ask("GET", "/speculation")["mode"])

    def switch_speculation(self, mode: str, reason: str) -> dict[str, Any]:
        """Decide it; the decision as written."""
        return self._ask("POST", "/speculation", {"mode": mode, "reason": reason})

    def buffer(self) -> dict[str, Any]:
        """The books of the replay buffer."""
        return self._ask("GET", "/buffer")

    def erase(self, tenant: str) -> dict[str, Any]:
        """Have a tenant forgotten; by whom it is."""
        return self._ask("POST", "/buffer/erase", {"tenant": tenant})

    def drafters(self) -> list[dict[str, Any]]:
        """All published versions."""
        found: list[dict[str, Any]] = self._ask("GET", "/drafters")["drafters"]
        return found

    def drafter(self, version: str) -> dict[str, Any]:
        """One version with the decisions about it."""
        return self._ask("GET", f"/drafters/{version}")

    def decide(self, kind: DecisionKind, version: str | None, reason: str) -> dict[str, Any]:
        """Decide; the decision as written."""
        return self._ask("POST", self._PATHS[kind].format(version=version), {"reason": reason})

    def adapters(self) -> list[dict[str, Any]]:
        """All published adapters."""
        found: list[dict[str, Any]] = self._ask("GET", "/adapters")["adapters"]
        return found

    def load_adapter(self, adapter: str, reason: str) -> dict[str, Any]:
        """Decide that it drafts for its segment."""
        return self._ask("POST", f"/adapters/{adapter}/load", {"reason": reason})

    def drop_adapter(self, name: str, reason: str) -> dict[str, Any]:
        """Decide that it, or that of this segment, drafts no more."""
        return self._ask("POST", f"/adapters/{name}/drop", {"reason": reason})

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout_s: float | None = None
    ) -> dict[str, Any]:
        own: dict[str, Any] = {} if timeout_s is None else {"timeout": timeout_s}
        try:
            response = self._client.request(method, path, json=body, **own)
        except httpx.HTTPError as error:
            raise StoreError(f"the admin API at {self._client.base_url} does not answer: {error}") from error
        try:
            content = response.json()
        except ValueError:
            content = {}
        if response.is_success and isinstance(content, dict):
            return content
        message = content.get("error", {}).get("message") if isinstance(content, dict) else None
        raise RequestError(message or f"the admin API answers {response.status_code}")


class OfflineAdmin:
    """Registry and journal on the artifact store itself, for when no system runs."""

    def __init__(self, settings: Settings) -> None:
        self.desk = open_desk(settings)

    def target(self) -> dict[str, Any]:
        """The target's weights and their updates."""
        return self.desk.target()

    def drafters(self) -> list[dict[str, Any]]:
        """All published versions."""
        return self.desk.drafters()

    def drafter(self, version: str) -> dict[str, Any]:
        """One version with the decisions about it."""
        return self.desk.drafter(version)

    def decide(self, kind: DecisionKind, version: str | None, reason: str) -> dict[str, Any]:
        """Decide; the decision as written."""
        return asdict(self.desk.decide(kind, version, "cli", reason))

    def adapters(self) -> list[dict[str, Any]]:
        """All published adapters."""
        return AdapterDesk(self.desk).adapters()

    def load_adapter(self, adapter: str, reason: str) -> dict[str, Any]:
        """Decide that it drafts for its segment."""
        return asdict(AdapterDesk(self.desk).load(adapter, "cli", reason))

    def drop_adapter(self, name: str, reason: str) -> dict[str, Any]:
        """Decide that it, or that of this segment, drafts no more."""
        return asdict(AdapterDesk(self.desk).drop(name, "cli", reason))


def open_desk(settings: Settings, fingerprint: str | None = None) -> AdminDesk:
    """The artifact store's one target, or the one named. ConfigError when there is none or a choice."""
    if fingerprint is None:
        targets = origins(ArtifactStore(settings.artifacts))
        if len(targets) != 1:
            found = ", ".join(targets) or "none"
            raise ConfigError("state_dir", f"{settings.artifacts} must hold one target, found: {found}")
        fingerprint = targets[0]
    return AdminDesk(settings.artifacts, fingerprint, None, RedisKeys(settings.redis.prefix, settings.realm))


def connect(state_dir: Path, url: str | None, key: str | None, model: str | None = None) -> OnlineAdmin:
    """The system at `url`, else the one that runs from `state_dir`, about `model` or the first. ConfigError
    when there is none."""
    if url is not None:
        if not key:
            raise ConfigError("admin_key", "--url needs --admin-key or ONLINE_DRAFT_ADMIN_KEY")
        return OnlineAdmin(url, key, model=model)
    run = require_run_file(state_dir)
    return OnlineAdmin(run.url, run.admin_key, run.tls_cert, model)
