"""Alerts and dashboard ask for metrics that exist, and every alert is explained."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

ROOT = Path(__file__).parents[3]
ENDS = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}


@pytest.fixture(scope="module")
def rules(documents: Callable[[str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    (alerts,) = documents("prometheus/alerts.yml")
    return [rule for group in alerts["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def series() -> dict[str, set[str]]:
    """The labels of every series that we export, by its name."""
    frozen = runpy.run_path(str(ROOT / "tests/unit/test_metric_names.py"))
    found: dict[str, set[str]] = {}
    for metrics, further in ((frozen["METRICS"], set()), (frozen["SYSTEM_METRICS"], {"model"})):
        for name, (kind, labels) in metrics.items():
            for end in {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}[
                kind
            ]:
                found[name + end] = labels | further | ({"le"} if end == "_bucket" else set())
    return found


def check(expression: str, series: dict[str, set[str]]) -> None:
    for name, matchers in re.findall(r"\b(online_draft_\w+)(?:\{([^}]*)\})?", expression):
        assert name in series, f"{name} in {expression}"
        assert set(re.findall(r"(\w+)\s*=", matchers)) <= series[name], expression
    names = set(re.findall(r"\bonline_draft_\w+", expression))
    for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
        for label in re.split(r",\s*", grouped):
            assert any(label in series[name] for name in names), f"{label} in {expression}"


def test_alerts_ask_for_series_that_are_exported(rules: list[dict[str, Any]], series: Any) -> None:
    for rule in rules:
        check(rule["expr"], series)


def test_the_dashboard_asks_for_series_that_are_exported(series: Any) -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/online-draft.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    expressions += [each["expr"] for each in dashboard["annotations"]["list"]]
    assert len(expressions) > 15
    for expression in expressions:
        check(expression, series)
    shown = {name for expression in expressions for name in re.findall(r"online_draft_\w+", expression)}
    assert {re.sub("_(bucket|total)$", "", name) for name in shown} >= {
        re.sub("_total$", "", name) for name in series if not re.search("_(bucket|sum|count|info)$", name)
    }, "every metric is shown"


def test_alarms_and_decisions_that_rules_name_exist(rules: list[dict[str, Any]]) -> None:
    from online_draft.control.alarms import AlarmCode
    from online_draft.registry.journal import KINDS

    text = " ".join(rule["expr"] for rule in rules)
    codes = {code for given in re.findall(r'code=~?"([^"]*)"', text) for code in given.split("|")}
    assert codes == {*get_args(AlarmCode), "control_silent"}
    assert set(re.findall(r'kind="([^"]*)"', text)) <= set(KINDS)


def test_what_must_be_watched_is(rules: list[dict[str, Any]]) -> None:
    names = [rule["alert"] for rule in rules]
    assert len(names) == len(set(names))
    assert {"AcceptanceDrop", "RolledBack", "BufferLag", "ErrorRate", "SlowFirstToken", "StaleVersion",
            "BooksOutOfBalance"} <= set(names)  # fmt: skip
    assert all(rule["labels"]["severity"] in ("critical", "warning", "info") for rule in rules)


def test_every_alert_has_meaning_and_remedy_in_the_guide(rules: list[dict[str, Any]]) -> None:
    guide = (ROOT / "docs/deploy.md").read_text().partition("\n## Alerts\n")[2]
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", guide, re.M | re.S))
    assert list(sections) == [rule["alert"] for rule in rules]
    for name, text in sections.items():
        meaning, remedy = text.strip().split("\n\n")
        assert min(len(meaning), len(remedy)) >= 30, name


def test_promtool_takes_rules_and_configuration_and_their_tests_pass(deploy: Path, tool: Any) -> None:
    folder = deploy / "prometheus"
    assert "SUCCESS" in tool("promtool", "check", "config", str(folder / "prometheus.yml"))
    assert "SUCCESS" in tool("promtool", "test", "rules", str(folder / "alerts_test.yml"))
