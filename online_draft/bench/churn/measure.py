"""The run of `bench churn`: a service, a warm-up, a crowd, and a look at what is left."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from online_draft.bench.churn.crowd import churn
from online_draft.bench.churn.holdings import Holding, holding, lasting, leaks, new_keys
from online_draft.bench.churn.options import ChurnOptions
from online_draft.launch import ChildSystem
from online_draft.launch.admin import OnlineAdmin
from online_draft.launch.processes import command, descendants
from online_draft.launch.run_file import RunFile
from online_draft.settings import load_settings
from online_draft.store import connect_redis

_PROCESSES = {"replica": ":Replica", "ingress": ":Ingress"}
_WARM_REQUESTS = 1_500
_EMPTY_S = 30.0


def measure(options: ChurnOptions, console: Console) -> dict[str, Any]:
    """Run it; the report. `wrong` says in words what should not be."""
    options.check()
    with tempfile.TemporaryDirectory(prefix="od-bench-") as work:
        settings = load_settings(
            {
                "target": options.target,
                "threads": 1,
                "port": 0,
                "host": "127.0.0.1",
                "state_dir": Path(work),
                "engine": {
                    "max_sequences": options.sequences,
                    "max_queue": options.queue,
                    "kernels": options.kernels,
                },
                "learner": {"mode": "off"},
                "control": {"enabled": False},
                "start_timeout_s": 300.0,
            }
        )
        console.print("starting the service")
        with ChildSystem(settings) as run:
            return asyncio.run(_measure(options, run, console))


async def _measure(options: ChurnOptions, run: RunFile, console: Console) -> dict[str, Any]:
    keys = connect_redis(run.redis_url)
    admin = OnlineAdmin(run.url, run.admin_key)

    def ask(rng: random.Random) -> dict[str, Any]:
        prompt = [rng.randrange(200, 1000) for _ in range(rng.randrange(4, 40))]
        return {"model": run.model, "prompt": prompt, "max_tokens": 300, "ignore_eos": True}

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=run.url, timeout=120, trust_env=False, limits=limits) as http:
        console.print(f"{options.clients} clients warm it up")
        requests = _WARM_REQUESTS if options.warm_up_s else 0
        await churn(http, ask, options.clients, options.warm_up_s, requests)
        held, wrong = await asyncio.to_thread(_when_empty, admin)
        before, names = _holdings(run), lasting(keys)
        console.print(f"they come and go for {options.minutes:g} minutes")
        seen = await churn(http, ask, options.clients, 60 * options.minutes)
    held, late = await asyncio.to_thread(_when_empty, admin)
    after = _holdings(run)
    wrong += late + leaks(before, after) + new_keys(names, lasting(keys)) + _unexpected(seen)
    admin.close()
    keys.close()
    return {
        "clients": options.clients,
        "minutes": options.minutes,
        "requests": seen.total(),
        "outcomes": dict(seen),
        "before": {name: asdict(one) for name, one in before.items()},
        "after": {name: asdict(one) for name, one in after.items()},
        "left": held,
        "wrong": wrong,
    }


def _holdings(run: RunFile) -> dict[str, Holding]:
    found = {}
    for pid in descendants(run.pid):
        shown = command(pid)
        for name, part in _PROCESSES.items():
            if shown.startswith("ray::ServeReplica") and part in shown:
                found[name] = holding(pid)
    return found


def _when_empty(admin: OnlineAdmin) -> tuple[dict[str, int], list[str]]:
    """What the engine holds once nothing should run any more, and what is wrong with that."""
    deadline = time.monotonic() + _EMPTY_S
    while True:
        replica = admin.status()["replica"]
        held = {name: int(replica[name]) for name in ("running", "waiting", "blocks_held")}
        if not any(held.values()):
            return held, []
        if time.monotonic() > deadline:
            return held, [f"the engine still holds {held}"]
        time.sleep(0.2)


def _unexpected(seen: Counter[str]) -> list[str]:
    return [f"{count} times {what}" for what, count in seen.items() if what not in ("200", "503")]
