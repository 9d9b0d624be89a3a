"""The page in a real Chromium: what people see and do."""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

KEY = "the-admin-key"
VIEWS = ("health", "drift", "tree", "learner", "versions", "traffic", "journal")
WAIT_MS = 15_000


@contextmanager
def signed_in(browser: Any, house: Any) -> Iterator[Any]:
    """A page with an eye on its own errors, and on whom it asks."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith(house.site.url) or failures.append(asked.url))
    page.goto(f"{house.site.url}/admin")
    page.fill("#key", KEY)
    page.click("form button")
    page.wait_for_selector(".answer:not(.loading)")
    yield page
    context.close()
    assert failures == []


@pytest.fixture
def page(browser: Any, house: Any) -> Iterator[Any]:
    """Before a house of one's own."""
    with signed_in(browser, house) as page:
        yield page


@pytest.fixture(scope="module")
def quiet_page(browser: Any, quiet_house: Any) -> Iterator[Any]:
    """Before a house to look at only."""
    with signed_in(browser, quiet_house) as page:
        yield page


def see(page: Any, house: Any, view: str, **state: str) -> str:
    """Open a view by its address; its answer."""
    query = "&".join(f"{name}={value}" for name, value in {"view": view, **state}.items())
    page.goto(f"{house.site.url}/admin?{query}")
    page.wait_for_selector(".answer:not(.loading)")
    answer: str = page.inner_text(".answer")
    return answer


def until(condition: Any, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.1)


def test_a_wrong_key_stays_outside(browser: Any, quiet_house: Any) -> None:
    page = browser.new_page()
    page.goto(f"{quiet_house.site.url}/admin")
    page.fill("#key", "wrong")
    page.click("form button")
    page.wait_for_selector("text=not a valid admin key")
    assert page.query_selector("nav") is None
    page.close()


def test_every_view_answers_its_question(quiet_page: Any, quiet_house: Any) -> None:
    page = quiet_page
    said = {view: see(page, quiet_house, view) for view in VIEWS}
    assert "champion v-2" in said["health"] and "1 alarm" in said["health"]
    assert "Yes, sql" in said["drift"]
    assert "depth 1" in said["tree"]
    assert said["learner"].startswith("It learns")
    assert "v-2 drafts; v-3 waits" in said["versions"]
    assert "4 segments" in said["traffic"]
    assert "5 decisions of 5" in said["journal"]


def test_the_service_s_own_memory_is_shown_and_survives_a_reload(quiet_page: Any, quiet_house: Any) -> None:
    page = quiet_page
    see(page, quiet_house, "health")
    until(lambda: page.inner_text(".figures div:has-text('speedup, estimated') dd") == "2.25 ×")
    assert "Webhook slack: works, 3 messages sent, 1 waiting." in page.inner_text("main")
    see(page, quiet_house, "tree")
    promised = page.locator("section.card:has-text('Calibration')")
    until(lambda: "promised" in promised.inner_text() and "n-gram memory (squares)" in promised.inner_text())
    promised.locator("summary").click()
    until(lambda: promised.locator("tbody tr").count() == 20)
    for _ in range(2):
        see(page, quiet_house, "learner")
        states = page.locator("section.card:has(h3:text-is('Time by state'))")
        until(lambda states=states: "yielding" in states.locator(".legend").inner_text())
        states.locator("summary").click()
        until(lambda states=states: states.locator("tbody tr").count() > 80)
        shares = states.locator("tbody tr").first.inner_text().split("\t")[1:]
        assert 98 <= sum(float(share.removesuffix(" %")) for share in shares) <= 102
    see(page, quiet_house, "traffic")
    for title, column, worst in (("Slowest", 1, max), ("Least accepted", 3, min)):
        rows = page.locator(f"section.card:has-text('{title} recent requests') tbody tr")
        until(lambda rows=rows: rows.count() == 20)
        shown = [float(re.sub(r"[^\d.]", "", text.split("\t")[column])) for text in rows.all_inner_texts()]
        assert shown[0] == worst(shown) and rows.first.inner_text().startswith("chatcmpl-")


def test_what_a_client_named_a_segment_is_text(quiet_page: Any, quiet_house: Any) -> None:
    page = quiet_page
    name = "<script>document.title='taken'</script>"
    for view in ("drift", "traffic", "learner"):
        see(page, quiet_house, view)
        page.wait_for_selector("table")
        assert name in page.inner_text("main")
        assert page.title() != "taken"
    assert name in page.inner_text("header label:has-text('Segment') select")


def test_inline_scripts_are_blocked(quiet_page: Any) -> None:
    page = quiet_page
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = \"document.title='taken'\";"
        " document.body.append(s); }"
    )
    assert page.title() != "taken"


def test_the_view_stays_in_the_address(quiet_page: Any, quiet_house: Any) -> None:
    page = quiet_page
    page.click("nav >> text=Traffic")
    page.select_option("header label:has-text('Range') select", "1h")
    page.select_option("header label:has-text('Segment') select", "python")
    until(lambda: "in 1 segment" in page.inner_text(".answer"))
    assert re.search(r"view=traffic.*range=1h.*segment=python", page.url)
    page.reload()
    until(lambda: "most of them python" in page.inner_text(".answer"))
    page.go_back()
    until(lambda: "in 4 segments" in page.inner_text(".answer"))


def test_a_rollback_by_click_is_confirmed_written_and_shown(page: Any, house: Any) -> None:
    see(page, house, "versions")
    page.click("main >> button:has-text('Roll back')")
    dialog = page.wait_for_selector("dialog[open]")
    assert "v-1 drafts for all traffic again" in dialog.inner_text()
    page.keyboard.press("Escape")
    until(lambda: page.query_selector("dialog") is None)
    assert house.made.desk.state().champion == "v-2"
    page.click("main >> button:has-text('Roll back')")
    page.fill("#reason", "looks worse")
    page.click("dialog >> button:has-text('Roll back')")
    until(lambda: "roll back v-1, by admin" in page.inner_text(".notice"))
    until(lambda: "v-1 drafts" in page.inner_text(".answer"))
    written = house.made.desk.journal.read()[-1]
    assert (written.kind, written.version, written.actor, written.reason) == (
        "roll_back", "v-1", "admin", "looks worse",
    )  # fmt: skip
    assert "0 of 2 replicas" in page.inner_text(".notice")
    house.made.statuses(house.now, drafter="v-1")
    until(lambda: "2 of 2 replicas" in page.inner_text(".notice"))


def test_pin_unpin_pause_resume_promote(page: Any, house: Any) -> None:
    see(page, house, "versions")
    for name, word, there in (
        ("Pin", "pinned", True),
        ("Unpin", "pinned", False),
        ("Pause learner", "paused", True),
        ("Resume learner", "paused", False),
    ):
        page.click(f"main >> button:text-is('{name}')")
        page.click("dialog >> button[type=submit]")
        until(lambda word=word, there=there: (word in page.inner_text(".answer")) is there)
    page.click("button[aria-label='Promote v-3']")
    page.click("dialog >> button[type=submit]")
    until(lambda: "v-3 drafts" in page.inner_text(".answer"))
    kinds = [one.kind for one in house.made.desk.journal.read()[5:]]
    assert kinds == ["pin", "unpin", "pause", "resume", "promote"]


def test_a_decision_that_lost_a_race_says_so(page: Any, house: Any) -> None:
    see(page, house, "versions")
    page.click("main >> button:has-text('Roll back')")
    house.made.desk.decide("pause", None, "admin:eve", "first")
    page.click("dialog >> button[type=submit]")
    until(lambda: "Somebody else decided first" in page.inner_text("dialog .error"))
    assert house.made.desk.state().champion == "v-2"


def test_the_journal_is_filtered_and_exported(quiet_page: Any, quiet_house: Any, tmp_path: Path) -> None:
    page = quiet_page
    see(page, quiet_house, "journal")
    page.select_option("main select", "promote")
    until(lambda: "3 decisions of 5" in page.inner_text(".answer"))
    with page.expect_download() as download:
        page.click("text=Export CSV")
    download.value.save_as(tmp_path / "journal.csv")
    with (tmp_path / "journal.csv").open() as file:
        assert [row["version"] for row in csv.DictReader(file)] == ["v-0", "v-1", "v-2"]


def test_a_service_that_goes_away_and_comes_back(page: Any, house: Any) -> None:
    until(lambda: page.inner_text(".state") == "live")
    house.site.stop()
    until(lambda: page.inner_text(".state") == "disconnected")
    house.site.start()
    until(lambda: page.inner_text(".state") == "live", seconds=20)


def test_new_traffic_appears_without_a_reload(page: Any, house: Any) -> None:
    see(page, house, "health")
    until(lambda: page.inner_text(".figures dd >> nth=2") not in ("–", "0"))
    before = page.inner_text(".figures dd >> nth=2")
    house.made.counts(int(time.time()) + 5, span_s=10)
    until(lambda: page.inner_text(".figures dd >> nth=2") != before)


def test_keys_alone_are_enough(page: Any, house: Any) -> None:
    see(page, house, "versions")
    page.focus("main >> button:text-is('Pin')")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    assert page.evaluate("() => document.activeElement.textContent") == "Cancel"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    until(lambda: house.made.desk.state().pinned == "v-2")
    page.focus("nav a >> nth=0")
    page.keyboard.press("Enter")
    until(lambda: page.inner_text("h2") == "Is it healthy?")
    page.focus("summary >> nth=0")
    page.keyboard.press("Enter")
    page.wait_for_selector("main table:has-text('time') tbody tr")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_nothing_is_in_anybodys_way(quiet_page: Any, quiet_house: Any, scheme: str, width: int) -> None:
    """axe-core finds no violation that is serious, and nothing sticks out of the window."""
    page = quiet_page
    axe = pytest.importorskip("axe_playwright_python.base").AXE_FILE_PATH
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 850})
    for view in VIEWS:
        see(page, quiet_house, view)
        page.evaluate(Path(axe).read_text() + "\n;null")
        found = page.evaluate("() => axe.run({ resultTypes: ['violations'] })")
        bad = [
            (one["id"], [node["html"][:200] for node in one["nodes"]])
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert bad == [], view
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width, view


def test_an_update_of_a_day_with_twenty_segments_is_quick(page: Any, house: Any) -> None:
    """At most 50 ms of the main thread for what an update computes, and no layout jumps."""
    house.made.segments = [f"segment-{number}" for number in range(20)]
    house.made.counts(house.now, span_s=86_400)
    see(page, house, "traffic", range="24h")
    until(lambda: "in 20 segments" in page.inner_text(".answer"))
    page.wait_for_timeout(1000)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def worked_ms() -> float:
        found = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        names = ("ScriptDuration", "LayoutDuration", "RecalcStyleDuration")
        return 1000 * float(sum(found[name] for name in names))

    page.evaluate(
        "() => { window.jumps = 0; new PerformanceObserver((list) => list.getEntries()"
        ".forEach((entry) => { jumps += entry.value; })).observe({ type: 'layout-shift' }); }"
    )
    before = worked_ms()
    with page.expect_response(lambda reply: "api/series" in reply.url, timeout=20_000):
        pass
    page.wait_for_timeout(500)
    assert worked_ms() - before <= 50
    assert page.evaluate("() => window.jumps") <= 0.02
