from __future__ import annotations

import pytest

from online_draft.buffer.mixing import cap_tenants


def shares(weights: dict[tuple[str, str], float], cap: float = 0.5) -> dict[str, float]:
    capped = cap_tenants(weights, cap)
    assert sum(capped.values()) == pytest.approx(1)
    tenants: dict[str, float] = {}
    for (_segment, tenant), share in capped.items():
        tenants[tenant] = tenants.get(tenant, 0) + share
    return tenants


def test_one_tenant_alone_has_all() -> None:
    assert shares({("sql", "a"): 3, ("code", "a"): 5}) == {"a": pytest.approx(1)}


def test_nobody_is_capped_who_has_no_more_than_that() -> None:
    assert shares({("s", "a"): 40, ("s", "b"): 35, ("s", "c"): 25}) == {
        "a": pytest.approx(0.4), "b": pytest.approx(0.35), "c": pytest.approx(0.25),
    }  # fmt: skip


def test_what_one_has_too_much_others_get() -> None:
    found = shares({("s", "flood"): 70, ("t", "flood"): 10, ("s", "a"): 15, ("s", "b"): 5})
    assert found["flood"] == pytest.approx(0.5)
    assert found["a"] + found["b"] == pytest.approx(0.5) and found["a"] > found["b"]


def test_few_records_are_not_worn_out() -> None:
    found = shares({("s", "busy"): 99, ("s", "rare"): 1})
    assert found == {"busy": pytest.approx(0.96), "rare": pytest.approx(0.04)}


def test_a_tenants_segments_keep_their_proportions() -> None:
    capped = cap_tenants({("s", "flood"): 60, ("t", "flood"): 20, ("s", "a"): 20}, 0.5)
    assert capped["s", "flood"] == pytest.approx(3 * capped["t", "flood"])
