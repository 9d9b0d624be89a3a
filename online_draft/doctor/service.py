"""Checks of a service that runs, over its own API. `online-draft doctor --url URL`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from online_draft import __version__
from online_draft.buffer.books import Books
from online_draft.doctor import Finding
from online_draft.errors import ConfigError
from online_draft.launch.ports import is_loopback

TIMEOUT_S = 10.0
SKEW_S = 5.0
"""Clocks that differ by more confuse rate limits, keys with an end, and alarms."""
_BOOKS = ("produced", "stored", "spooled", "dropped", "erased")

Status = dict[str, Any]


def examine(url: str, admin_key: str | None) -> Iterator[Finding]:
    """All checks of the service at `url`, one finding each; those that need the admin key only with one.

    Changes nothing. ConfigError for what is no URL.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError("--url", f"{url!r} is not http://host:port or https://host:port")
    with httpx.Client(base_url=url.rstrip("/"), timeout=TIMEOUT_S, trust_env=False) as http:
        try:
            health = http.get("/health")
        except httpx.HTTPError as error:
            remedy = "does it run, is the address right, do you trust its certificate? See its log"
            yield Finding("fail", "reachable", f"{url}: {type(error).__name__}: {error}", remedy)
            return
        yield check_health(health)
        yield check_ready(http.get("/ready"))
        yield check_clock(health.headers.get("date"), time.time())
        yield check_version(http.get("/version"))
        yield check_access(http.get("/v1/models"), url)
        if admin_key is None:
            detail = "no admin key: Redis, learner, control, books and versions were not asked about"
            remedy = "set ONLINE_DRAFT_ADMIN_KEY, or name another variable: --admin-key-env NAME"
            yield Finding("warn", "admin", detail, remedy)
            return
        status = http.get("/admin/api/status", headers={"Authorization": f"Bearer {admin_key}"})
        if status.status_code != 200:
            detail = f"/admin/api/status answers {status.status_code}: {_message(status)}"
            yield Finding("fail", "admin", detail, "is it this system's admin key? See its run file")
            return
        yield from examine_status(status.json())


def examine_status(status: Status) -> Iterator[Finding]:
    """The checks of what `/admin/api/status` says."""
    yield check_redis(status)
    yield check_journal(status)
    yield check_replica(status.get("replica") or {})
    yield check_versions(status.get("replica") or {})
    if "redis_error" not in status:
        yield check_books(status.get("records") or {})
        yield check_learner(status)
        yield check_control(status)
        yield check_alarms(status.get("alarms") or [])


def check_health(answer: httpx.Response) -> Finding:
    """A replica's engine works."""
    if answer.status_code == 200:
        return Finding("ok", "health", f"200 after {1000 * answer.elapsed.total_seconds():.0f} ms")
    remedy = "see the service's log; Ray Serve replaces a replica whose engine is dead"
    return Finding("fail", "health", f"{answer.status_code}: {_message(answer)}", remedy)


def check_ready(answer: httpx.Response) -> Finding:
    """New requests are taken."""
    if answer.status_code == 200:
        return Finding("ok", "ready", "takes requests")
    remedy = "it starts, ends or has no replica: wait, then see its log"
    return Finding("fail", "ready", f"{answer.status_code}: {_message(answer)}", remedy)


def check_clock(date: str | None, now_s: float) -> Finding:
    """Its clock and ours agree, to the second that HTTP tells."""
    try:
        theirs = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return Finding("warn", "clock", "the service doesn't say what time it is", "ask it without a proxy")
    skew = theirs - now_s
    if abs(skew) <= SKEW_S:
        return Finding("ok", "clock", f"within {SKEW_S:.0f} s of ours")
    way = "ahead of" if skew > 0 else "behind"
    return Finding("warn", "clock", f"{abs(skew):.0f} s {way} ours", "let NTP set both machines' clocks")


def check_version(answer: httpx.Response) -> Finding:
    """It runs the software that is installed here."""
    theirs = str(_content(answer).get("version", "unknown"))
    if theirs == __version__:
        return Finding("ok", "version", theirs)
    detail = f"the service runs {theirs}, here is {__version__}"
    return Finding("warn", "version", detail, "restart the service after an update, or install its version")


def check_access(answer: httpx.Response, url: str) -> Finding:
    """Keys are asked for, unless only this machine is served; models are named where none is needed."""
    if answer.status_code == 401:
        return Finding("ok", "access", "API keys are asked for")
    if answer.status_code != 200:
        remedy = "see the service's log"
        return Finding("fail", "access", f"/v1/models: {answer.status_code}: {_message(answer)}", remedy)
    names = ", ".join(str(model["id"]) for model in _content(answer)["data"])
    if is_loopback(urlsplit(url).hostname or ""):
        return Finding("ok", "access", f"no key is asked for on this machine; models: {names}")
    detail = f"anybody who reaches it may use it; models: {names}"
    return Finding("warn", "access", detail, "create keys: `online-draft keys create NAME`")


def check_redis(status: Status) -> Finding:
    """The ingress reaches Redis."""
    error = status.get("redis_error")
    if error is None:
        return Finding("ok", "redis", "reached by the ingress")
    remedy = "serving goes on; start that Redis again, or look at the network between"
    return Finding("fail", "redis", str(error), remedy)


def check_journal(status: Status) -> Finding:
    """Decisions can be read."""
    error = status.get("journal_error") or (status.get("replica") or {}).get("journal_error")
    if error:
        remedy = "serving goes on, nothing is decided: see the artifact store (`state_dir/artifacts`)"
        return Finding("fail", "journal", str(error), remedy)
    return Finding("ok", "journal", f"{status.get('ladder', {}).get('seq', 0)} decisions")


def check_replica(replica: Status) -> Finding:
    """The replica that was asked works."""
    trouble = replica.get("error") or replica.get("engine_error")
    if trouble:
        return Finding("fail", "replica", str(trouble), "see its log; Ray Serve should replace it")
    parts = ("replica", "device", "dtype", "kernel")
    shown = ", ".join(str(replica[name]) for name in parts if replica.get(name))
    return Finding("ok", "replica", shown or "answers")


def check_versions(replica: Status) -> Finding:
    """It drafts with what was decided, and can load all that was."""
    runs, decided = replica.get("drafter_version"), replica.get("decided_version")
    unusable = replica.get("unusable") or {}
    if unusable:
        detail = "; ".join(f"{version}: {reason}" for version, reason in unusable.items())
        return Finding("warn", "drafter", f"can't be used: {detail}", "reject it, or push it again")
    if runs != decided:
        detail = f"{runs or 'none'} drafts, {decided or 'none'} was decided"
        return Finding("warn", "drafter", detail, "ask again in a moment; then see the replica's log")
    off = ", speculation is switched off" if replica.get("speculation_off") else ""
    return Finding("ok", "drafter", f"{runs or 'none'}{off}")


def check_books(records: Status) -> Finding:
    """What became of every record is known."""
    produced, stored, spooled, dropped, erased = (int(records.get(name, 0)) for name in _BOOKS)
    books = Books(produced, stored, spooled, dropped, erased=erased)
    detail = ", ".join(f"{getattr(books, name):,} {name}" for name in _BOOKS)
    if not books.balanced:
        return Finding("fail", "books", detail, "records are unaccounted for: keep the log and report it")
    if books.dropped:
        remedy = "Redis was away or too slow, or a tenant over its quota: `online-draft buffer stats`"
        return Finding("warn", "books", detail, remedy)
    return Finding("ok", "books", detail)


def check_learner(status: Status) -> Finding:
    """The learner speaks, unless it was paused."""
    if status.get("ladder", {}).get("learner_paused"):
        return Finding("warn", "learner", "paused by hand", "`online-draft learner resume`")
    if status.get("learner") is None:
        remedy = "switched off in the settings? Else see its log; control starts it again"
        return Finding("warn", "learner", "says nothing", remedy)
    return Finding("ok", "learner", "alive")


def check_control(status: Status) -> Finding:
    """Control speaks: else nobody promotes or rolls back."""
    if status.get("control") is None:
        remedy = "switched off in the settings? Else restart the service"
        return Finding("warn", "control", "says nothing: nobody promotes or rolls back", remedy)
    return Finding("ok", "control", "alive")


def check_alarms(alarms: list[Status]) -> Finding:
    """Nothing is wrong that control has seen."""
    if not alarms:
        return Finding("ok", "alarms", "none")
    told = "; ".join(f"{alarm['code']} ({alarm['about']}): {alarm['message']}" for alarm in alarms)
    return Finding("warn", "alarms", told, "docs/operations.md says what to do about each code")


def _content(answer: httpx.Response) -> Status:
    try:
        content = answer.json()
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _message(answer: httpx.Response) -> str:
    error = _content(answer).get("error")
    return str(error.get("message", "")) if isinstance(error, dict) else answer.text[:200]
