"""Names, types and labels of our metrics, which dashboards and alerts are built on. Adding one is fine, to
rename or lose one, or to change its labels, is a breaking change."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from online_draft.core import GenerationRequest
from online_draft.serve.api.choice import Choice
from online_draft.serve.api.metrics import ApiMetrics

METRICS = {
    "online_draft_ingress_info": ("gauge", {"version", "ingress"}),
    "online_draft_http_requests_in_flight": ("gauge", set()),
    "online_draft_http_requests": ("counter", {"route", "method", "status"}),
    "online_draft_http_request_seconds": ("histogram", {"route"}),
    "online_draft_choices": ("counter", {"finish_reason"}),
    "online_draft_tokens": ("counter", {"kind"}),
    "online_draft_time_to_first_token_seconds": ("histogram", set()),
    "online_draft_time_per_output_token_seconds": ("histogram", set()),
}


def test_metrics_keep_their_names_types_and_labels() -> None:
    metrics = ApiMetrics()
    metrics.answered({"method": "GET"}, 200, 0.1)
    metrics.generated([Choice(GenerationRequest("a", (1,)))], 1, 0.1, 0.05)
    found = {
        family.name: (family.type, {label for sample in family.samples for label in sample.labels} - {"le"})
        for family in text_string_to_metric_families(metrics.text().decode())
    }
    assert {name: found.get(name) for name in METRICS} == METRICS
    assert all(name.startswith("online_draft_") for name in found)
