"""A live service: a version climbs through canary and watch, and one that disappoints goes within seconds."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from online_draft.launch import ChildSystem, RunFile
from online_draft.launch.admin import OnlineAdmin
from online_draft.models.artifact import new_drafter, save_drafter
from online_draft.models.embedded import DRAFTERS_DIR
from online_draft.models.embedded.domains import examples
from online_draft.models.loading import load_target
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import DecisionJournal
from online_draft.registry.ladder import Choice, decide_with_retry
from online_draft.registry.manifest import Provenance
from online_draft.settings import load_settings
from online_draft.store import ArtifactStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROMPTS = [example.prompt for example, _ in zip(examples("sql", split="heldout"), range(40), strict=False)]


class System:
    def __init__(self, run: RunFile, store: str) -> None:
        self.admin = OnlineAdmin(run.url, run.admin_key)
        self.http = httpx.Client(base_url=run.url, timeout=60, trust_env=False)
        self.model = run.model
        files = ArtifactStore(store)
        self.registry = DrafterRegistry(files, run.fingerprint)
        self.journal = DecisionJournal(files, run.fingerprint)
        self.served: Counter[str] = Counter()
        self.asked = 0

    def propose(self, directory: Path) -> str:
        """As the learner does it, after the gate."""
        parent = self.ladder()["champion"]
        version = self.registry.publish(directory, Provenance(parent))
        numbers = {"gain": 0.2, "parent": parent}
        decide_with_retry(self.journal, lambda _: Choice("propose", version, "learner", "gate", numbers))
        return version

    def ladder(self) -> dict[str, Any]:
        return dict(self.admin.status()["ladder"])

    def ask(self, number: int) -> str:
        """The text; counts by version in `served`."""
        body = {
            "model": self.model, "messages": [{"role": "user", "content": PROMPTS[number % len(PROMPTS)]}],
            "seed": number % len(PROMPTS), "temperature": 0.6, "max_tokens": 24, "metrics": True,
            "metadata": {"segment": "sql"},
        }  # fmt: skip
        response = self.http.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        answer = response.json()
        self.served[answer["metrics"]["speculative_decoding"]["choices"][0]["drafter_version"]] += 1
        return str(answer["choices"][0]["message"]["content"])

    def traffic(self, until: Callable[[], object], seconds: float) -> None:
        """Ask, four at a time, until the condition holds."""
        deadline = time.monotonic() + seconds
        with ThreadPoolExecutor(4) as clients:
            while not until():
                assert time.monotonic() < deadline, self.admin.status()["control"]
                list(clients.map(self.ask, range(self.asked, self.asked + 8)))
                self.asked += 8


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    settings = load_settings(
        {
            "state_dir": tmp_path_factory.mktemp("ladder") / "state",
            "port": 0,
            "threads": 1,
            "drafter": "untrained",
            "engine": {"speculation": "always", "tree_nodes": 8, "ngram": False, "kernels": "wait"},
            "learner": {"mode": "off"},
            "control": {
                "canary_share": 0.3, "canary_requests": 4, "canary_max_s": 20.0,
                "watch_share": 0.3, "watch_min_s": 0.1, "watch_s": 3600.0, "worse_requests": 6,
            },
        }
    )  # fmt: skip
    with ChildSystem(settings) as run:
        running = System(run, settings.artifacts)
        yield running
        running.admin.close()
        running.http.close()


def test_up_through_a_canary_and_down_within_seconds(system: System, until: Callable[..., None]) -> None:
    status = system.admin.status
    before = [system.ask(number) for number in range(12)]
    good = system.propose(DRAFTERS_DIR / "baseline")
    until(lambda: status()["replica"].get("second_version") == good, 10, status)
    assert system.ladder()["canary"] == good and system.ladder()["arms"]["share"] == 0.3
    system.served.clear()
    system.traffic(lambda: system.ladder()["champion"] == good, 60)
    assert system.served["untrained"] > 0 and system.served[good] > 0, "both drafted, concurrently"
    promotion = system.journal.read()[-1]
    assert promotion.kind == "promote" and "held against untrained live" in promotion.reason
    assert promotion.numbers["live"]["tau"][0] > 1.5 * promotion.numbers["live"]["tau"][1]
    until(lambda: status()["replica"]["drafter_version"] == good, 10, status)
    assert status()["replica"]["second_version"] == "untrained"
    shown = {entry["version"]: (entry["roles"], entry["share"]) for entry in system.admin.drafters()}
    assert shown == {good: (["champion"], 0.7), "untrained": (["previous", "baseline"], 0.3)}

    loaded = load_target("embedded")
    with tempfile.TemporaryDirectory() as scratch:
        save_drafter(new_drafter("amphista", loaded.target), scratch, loaded.fingerprint)
        bad = system.propose(Path(scratch))
    # Nobody asks anything: after a while the gate's word is taken for it.
    until(lambda: system.ladder()["champion"] == bad, 60, status)
    until(lambda: status()["replica"]["drafter_version"] == bad, 10, status)
    assert "too little traffic" in system.journal.read()[-1].reason
    system.traffic(lambda: system.ladder()["champion"] == good, 90)
    until(lambda: status()["replica"]["drafter_version"] == good, 10, status)
    back_ms = time.time_ns() // 1_000_000
    rollback = next(entry for entry in system.journal.read() if entry.kind == "roll_back")
    assert rollback.actor == "control" and f"{bad} is worse than {good} live" in rollback.reason
    assert rollback.numbers["live"]["gain"] < -0.3
    assert back_ms - rollback.at_ms < 5_000
    assert status()["replica"]["second_version"] is None and status()["alarms"] == []
    assert [system.ask(number) for number in range(12)] == before
