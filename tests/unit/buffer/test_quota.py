from __future__ import annotations

from online_draft.buffer.quota import TenantQuota


def test_a_tenant_gets_its_quota_and_others_theirs() -> None:
    now = 0.0
    quota = TenantQuota(60, lambda: now)
    assert sum(quota.admit("flood") for _ in range(1000)) == 60
    assert sum(quota.admit("quiet") for _ in range(10)) == 10
    now = 10.0
    assert sum(quota.admit("flood") for _ in range(1000)) == 10, "one a second comes back"
    now = 10_000.0
    assert sum(quota.admit("flood") for _ in range(1000)) == 60, "and no more than a minute's worth"


def test_without_a_quota_all_may_go() -> None:
    quota = TenantQuota(0)
    assert all(quota.admit("a") for _ in range(10_000))


def test_memory_stays_bounded_without_giving_anybody_more() -> None:
    now = 0.0
    quota = TenantQuota(6, lambda: now)
    assert sum(quota.admit("flood") for _ in range(10)) == 6
    for index in range(10_000):
        now += 0.001
        quota.admit(f"t{index}")
        if index % 5000 == 4999:
            now += 60
    assert len(quota._buckets) <= 5001
