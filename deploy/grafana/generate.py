"""Writes online-draft.json, the Grafana dashboard: `python deploy/grafana/generate.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OUT = Path(__file__).with_name("online-draft.json")
WIDTH, HEIGHT = 8, 7
SOURCE = {"type": "prometheus", "uid": "${source}"}

RATE = "rate({}[$__rate_interval])"
COMMITTED, STEPS = "online_draft_committed_tokens_total", "online_draft_steps_total"
TAU = f"max by (model) ({RATE.format(COMMITTED)}) / max by (model) ({RATE.format(STEPS)})"
LADDER = 'online_draft_decisions_total{kind=~"promote|roll_back"}'


def quantiles(metric: str) -> list[tuple[str, str]]:
    """p50, p95 and p99 of a histogram over all ingresses."""
    buckets = f"sum by (model, le) ({RATE.format(f'{metric}_bucket')})"
    return [
        (f"histogram_quantile({q}, {buckets})", f"p{round(100 * q)} {{{{model}}}}") for q in (0.5, 0.95, 0.99)
    ]


def rates(metric: str, label: str, shared: bool = False) -> list[tuple[str, str]]:
    """A counter a second by label. `shared` ones are shown by every ingress alike."""
    return [(f"{'max' if shared else 'sum'} by ({label}) ({RATE.format(metric)})", f"{{{{{label}}}}}")]


# By row: title, unit, what it tells, [(expression, legend)].
ROWS: dict[str, list[tuple[str, str, str, list[tuple[str, str]]]]] = {
    "Is it healthy?": [
        ("Alarms", "none", "What control says is wrong now.",
         [("max by (model, code) (online_draft_alarms)", "{{model}} {{code}}")]),
        ("Replicas", "none", "Replicas that say their load.",
         [("max by (model) (online_draft_replicas)", "{{model}}")]),
        ("Dependencies", "none", "1: it answers.",
         [("min by (model, dependency) (online_draft_dependency_up)", "{{model}} {{dependency}}")]),
        ("Requests", "reqps", "By status.", rates("online_draft_http_requests_total", "status")),
        ("In flight", "none", "Requests being answered.",
         [("sum(online_draft_http_requests_in_flight)", "requests")]),
        ("Tokens", "none", "A second, by kind.", rates("online_draft_tokens_total", "kind")),
        ("Time to first token", "s", "Of streams.",
         quantiles("online_draft_time_to_first_token_seconds")),
        ("Time per output token", "s", "Of streams, after the first step.",
         quantiles("online_draft_time_per_output_token_seconds")),
        ("Ends", "none", "Sequences a second, by finish reason.",
         rates("online_draft_choices_total", "finish_reason")),
    ],
    "Is acceptance drifting?": [
        ("τ", "none", "Tokens committed per step; 1 without drafts.", [(TAU, "{{model}}")]),
        ("Drafted and accepted", "none", "Tokens a second.",
         [(f'sum by (kind) ({RATE.format("""online_draft_tokens_total{kind=~"drafted|accepted"}""")})',
           "{{kind}}")]),
        ("Drift alarms", "none", "Segments whose acceptance drifts.",
         [('max by (model) (online_draft_alarms{code="drift"}) or vector(0)', "{{model}}")]),
    ],
    "What is the learner doing?": [
        ("Records", "none", "A second, by what became of them.",
         rates("online_draft_records_total", "fate", shared=True)),
        ("Waiting", "none", "In replicas, in Redis, and those that the learner has yet to read.",
         [("max by (model) (online_draft_records_spooled)", "{{model}} in replicas"),
          ("max by (model) (online_draft_stream_records)", "{{model}} in Redis"),
          ("max by (model) (online_draft_stream_lag)", "{{model}} unread")]),
        ("Books", "none", "1: every record is accounted for; and what was lost in crashes.",
         [("min by (model) (online_draft_books_balanced)", "{{model}} balanced"),
          ("max by (model) (online_draft_records_lost_total)", "{{model}} lost")]),
        ("Decisions", "none", "Within an hour, by kind.",
         [("max by (model, kind) (increase(online_draft_decisions_total[1h]))", "{{model}} {{kind}}")]),
    ],
}  # fmt: skip


def panels() -> Iterator[dict[str, Any]]:
    """Rows and their panels from left to right, with numbers that stay while nothing is put in between."""
    number, top = 0, 0
    for title, charts in ROWS.items():
        number += 1
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [],
               "gridPos": {"x": 0, "y": top, "w": 24, "h": 1}}  # fmt: skip
        top += 1
        for place, (name, unit, about, queries) in enumerate(charts):
            number += 1
            yield panel(number, place % 3 * WIDTH, top + place // 3 * HEIGHT, name, unit, about, queries)
        top += -(-len(charts) // 3) * HEIGHT


def panel(
    number: int, x: int, y: int, title: str, unit: str, about: str, queries: list[tuple[str, str]]
) -> dict[str, Any]:
    """One chart over time."""
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "description": about,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for place, (expression, legend) in enumerate(queries)
        ],
    }


def dashboard() -> dict[str, Any]:
    """All of it, for Grafana 10 and newer."""
    return {
        "uid": "online-draft",
        "title": "online-draft",
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "tags": ["online-draft"],
        "templating": {
            "list": [{"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"}]
        },
        "annotations": {
            "list": [
                {
                    "name": "promotions and rollbacks",
                    "datasource": SOURCE,
                    "enable": True,
                    "iconColor": "blue",
                    "expr": f"max by (model, kind) (changes({LADDER}[1m])) > 0",
                    "titleFormat": "{{kind}} {{model}}",
                }
            ]
        },
        "panels": list(panels()),
    }


def text() -> str:
    """The file's contents."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    OUT.write_text(text(), encoding="utf-8")
