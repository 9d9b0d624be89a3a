"""What `bench adapters` says about an engine is what happened in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from online_draft.bench.adapters.options import AdapterOptions
from online_draft.bench.adapters.serving import loading, mixed_batch
from online_draft.errors import ConfigError
from online_draft.training.features import TokenRecord


class CountingAudit:
    """Every difference is a change: on one machine and in one process there is none."""

    def differences(self, requests: Any, expected: Any, actual: Any) -> dict[str, int]:
        changed = sum(a != b for a, b in zip(expected, actual, strict=True))
        return {"near_tie": 0, "changed": changed}


OPTIONS = AdapterOptions(max_new_tokens=30, tree_nodes=6, kernels="off", segments=("a", "b"))


@pytest.fixture
def held() -> dict[str, list[TokenRecord]]:
    return {
        segment: [TokenRecord(tuple(low + (3 * i + j) % 20 for j in range(6)), (1, 2)) for i in range(3)]
        for segment, low in (("a", 0), ("b", 20))
    }


def test_a_mixed_batch_is_compared_with_plain_decoding(
    traffic: Any, make_adapter: Callable[..., Any], held: dict[str, list[TokenRecord]]
) -> None:
    base = traffic.drafter()
    adapters = {segment: make_adapter(base, segment, seed=seed) for seed, segment in enumerate("ab")}
    report = mixed_batch(OPTIONS, traffic.loaded, base, adapters, held, CountingAudit())  # type: ignore[arg-type]
    assert (report["requests"], report["changed_outputs"], report["kernel"]) == (6, 0, "eager")
    assert all(tau >= 1.0 for tau in (*report["tau_shared"].values(), *report["tau_adapters"].values()))
    assert report["tau_shared"] != report["tau_adapters"], "the adapters were not used"


def test_loading_counts_the_streams_that_noticed(
    traffic: Any, make_adapter: Callable[..., Any], held: dict[str, list[TokenRecord]]
) -> None:
    base, audit = traffic.drafter(), CountingAudit()
    adapters = {segment: make_adapter(base, segment, seed=seed) for seed, segment in enumerate("ab")}
    report = loading(OPTIONS, traffic.loaded, base, adapters, held, audit)  # type: ignore[arg-type]
    assert (report["streams"], report["changed_outputs"], report["rebuilt"]) == (8, 0, 0)
    assert report["load_ms"] > 0
    own = {"a": adapters["a"], "other": make_adapter(base, "a", seed=5)}
    report = loading(OPTIONS, traffic.loaded, base, own, held, audit)  # type: ignore[arg-type]
    assert report["rebuilt"] > 0, "their own segment's adapter was replaced"
    assert report["changed_outputs"] == 0


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"segments": ("sql",)}, "segments"),
        ({"segments": ("sql", "sql")}, "segments"),
        ({"segments": ("sql", "poems")}, "segments"),
        ({"target": "/models/other"}, "prompts"),
        ({"kernels": "maybe"}, "kernels"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, Any], option: str) -> None:
    with pytest.raises(ConfigError, match=option):
        AdapterOptions(**changes).check()
