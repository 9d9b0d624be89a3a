"""The page before a running system: real Ray, real Redis, real requests, the embedded target."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from online_draft.launch import ChildSystem, RunFile
from online_draft.launch.pushing import push_drafter
from online_draft.models.artifact import new_drafter, save_drafter
from online_draft.models.loading import load_target
from online_draft.settings import Settings, load_settings

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def running(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, RunFile]]:
    settings = load_settings(
        {
            "target": "embedded",
            "drafter": "narrow",
            "state_dir": tmp_path_factory.mktemp("live") / "state",
            "port": 0,
            "threads": 1,
            "learner": {"mode": "off"},
            "control": {"canary_share": 0, "watch_share": 0},
            "engine": {"speculation": "always", "kernels": "off", "ngram": False},
        }
    )
    with ChildSystem(settings) as run:
        yield settings, run


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.1)


def test_requests_move_the_figures_and_replicas_follow_a_click(
    browser: Any, running: tuple[Settings, RunFile], tmp_path: Path
) -> None:
    settings, run = running
    loaded = load_target(run.target)
    save_drafter(new_drafter("medusa", loaded.target, seed=1), tmp_path / "other", loaded.fingerprint)
    other = push_drafter(settings, tmp_path / "other").version

    page = browser.new_page()
    page.goto(f"{run.url}/admin")
    page.fill("#key", run.admin_key)
    page.click("form button")
    until(lambda: page.inner_text(".figures dd >> nth=2") == "0")
    first = page.inner_text(".answer").partition("champion ")[2].partition(",")[0]
    body = {"model": run.model, "prompt": "select", "max_tokens": 24, "temperature": 0}
    for seed in range(3):
        reply = httpx.post(
            f"{run.url}/v1/completions", json={**body, "seed": seed}, headers={"X-Segment": "sql"}, timeout=60
        )
        assert reply.status_code == 200
    until(lambda: page.inner_text(".figures dd >> nth=2") == "3")
    assert float(page.inner_text(".figures dd >> nth=0")) >= 1.0

    page.click("nav >> text=Versions")
    page.click(f"button[aria-label='Promote {other}']")
    page.click("dialog >> button[type=submit]")
    until(lambda: "1 of 1 replica draft" in page.inner_text(".notice"))
    until(lambda: f"{other} drafts" in page.inner_text(".answer"))
    page.click("main >> button:has-text('Roll back')")
    page.click("dialog >> button[type=submit]")
    until(lambda: f"{first} drafts" in page.inner_text(".answer"))
    until(lambda: "1 of 1 replica draft" in page.inner_text(".notice"))
    page.click("main >> details summary")
    until(lambda: "Marks:" in page.inner_text("main caption"))
    assert "rolled back to" in page.inner_text("main caption")

    page.click("nav >> text=Traffic")
    until(lambda: "3 requests in 1 segment, most of them sql" in page.inner_text(".answer"))
    slowest = page.locator("section.card:has-text('Slowest recent requests') tbody tr")
    until(lambda: slowest.count() == 3)
    assert "sql" in slowest.first.inner_text() and "24" in slowest.first.inner_text()
    page.close()
