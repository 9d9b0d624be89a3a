"""Names, types and labels of our metrics, which dashboards and alerts are built on. Adding one is fine, to
rename or lose one, or to change its labels, is a breaking change."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from online_draft.core import GenerationRequest
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.admin.system_metrics import SystemMetrics
from online_draft.serve.api.choice import Choice
from online_draft.serve.api.metrics import ApiMetrics
from online_draft.store import RedisKeys

METRICS = {
    "online_draft_ingress_info": ("gauge", {"version", "ingress"}),
    "online_draft_http_requests_in_flight": ("gauge", set()),
    "online_draft_http_requests": ("counter", {"route", "method", "status"}),
    "online_draft_http_request_seconds": ("histogram", {"route"}),
    "online_draft_choices": ("counter", {"model", "finish_reason"}),
    "online_draft_tokens": ("counter", {"model", "kind"}),
    "online_draft_time_to_first_token_seconds": ("histogram", {"model"}),
    "online_draft_time_per_output_token_seconds": ("histogram", {"model"}),
}


def test_metrics_keep_their_names_types_and_labels() -> None:
    metrics = ApiMetrics()
    metrics.answered({"method": "GET"}, 200, 0.1)
    choice = Choice(GenerationRequest("a", (1,)), token_ids=[1, 2], step_lengths=[1, 1])
    metrics.generated("tiny", [choice], 1, 0.1, 0.05)
    found = {
        family.name: (family.type, {label for sample in family.samples for label in sample.labels} - {"le"})
        for family in text_string_to_metric_families(metrics.text().decode())
    }
    assert {name: found.get(name) for name in METRICS} == METRICS
    assert all(name.startswith("online_draft_") for name in found)


SYSTEM_METRICS = {
    "online_draft_dependency_up": ("gauge", {"dependency"}),
    "online_draft_alarms": ("gauge", {"code"}),
    "online_draft_replicas": ("gauge", set()),
    "online_draft_decisions": ("counter", {"kind"}),
    "online_draft_steps": ("counter", set()),
    "online_draft_committed_tokens": ("counter", set()),
    "online_draft_records": ("counter", {"fate"}),
    "online_draft_records_spooled": ("gauge", set()),
    "online_draft_records_lost": ("counter", set()),
    "online_draft_books_balanced": ("gauge", set()),
    "online_draft_stream_records": ("gauge", set()),
    "online_draft_stream_lag": ("gauge", set()),
}
"""Of the whole system, each with `model`."""


def test_system_metrics_keep_their_names_types_and_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = RedisKeys()
    desk = AdminDesk(str(tmp_path), "llama-0000000000000000-00000000", None, keys)
    redis = SimpleNamespace(hgetall=lambda key: {}, xlen=lambda key: 0)
    numbers = dict.fromkeys(("training", "held_out", "duplicate", "repetition", "segments", "lag"), 0)
    learner = {"feed": {**numbers, "lost_in_crash": 0, "reader": {}}}
    monkeypatch.setattr(desk, "redis_client", lambda: (redis, keys))
    monkeypatch.setattr(desk, "actor_status", {"learner": learner}.get)
    found = {
        family.name: (
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"model"},
        )
        for family in text_string_to_metric_families(SystemMetrics(desk).text().decode())
    }
    assert found == SYSTEM_METRICS
