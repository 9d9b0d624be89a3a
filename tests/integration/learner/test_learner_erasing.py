"""A tenant is erased: from the learner, from its checkpoints, and from those of other targets."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from online_draft.buffer.erasures import ErasureLog
from online_draft.buffer.reservoirs import Reservoirs
from online_draft.learner.checkpoint import Checkpoint, CheckpointStore
from online_draft.learner.config import LearnerConfig
from online_draft.models.artifact import save_drafter
from online_draft.registry.manifest import Provenance, tenant_mark
from online_draft.store.packing import pack_ints


def tokens_of(service: Any, tenant: str, seed: int, requests: int = 40) -> list[bytes]:
    """Log traffic of a tenant; what its records hold, as bytes."""
    records = [replace(record, tenant=tenant) for record in service.traffic.interactions(requests, seed=seed)]
    service.log(records)
    return [pack_ints(record.output_ids) for record in records]


def stored(service: Any) -> bytes:
    return b"".join(
        path.read_bytes()
        for path in sorted((service.directory / "store/learner").rglob("*"))
        if path.is_file()
    )


def holds(data: bytes, tokens: list[bytes]) -> int:
    return sum(one in data for one in tokens)


@pytest.mark.slow
def test_a_running_learner_forgets_and_goes_on(service: Any) -> None:
    stays = tokens_of(service, "stays", 1)
    gone = [tokens for tokens in tokens_of(service, "gone", 0) if tokens not in stays]
    loop = service.learner()
    service.run(loop, lambda: (loop.status()["checkpoint"] or 0) >= 2 and not loop.status()["unsettled"])
    before = stored(service)
    assert holds(before, gone) > 25 and holds(before, stays) > 25
    slices = loop.status()["slices"]

    ErasureLog(service.store).request("gone")
    service.run(loop, lambda: loop.status()["erased"] == 1)
    after = stored(service)
    assert holds(after, gone) == 0 and b"gone" not in after
    assert holds(after, stays) > 25
    status = loop.status()
    assert status["feed"]["erased_records"] > 25 and status["feed"]["segments"]["a"]["tenants"] == 1
    assert status["slices"] >= slices, "what was learnt stays"

    # A record that comes late, and one that comes again.
    tokens_of(service, "gone", 0, 10)
    tokens_of(service, "stays", 2, 10)
    service.run(loop, lambda: loop.status()["feed"]["reader"]["delivered"] >= 90)
    assert loop.status()["feed"]["reader"]["erased"] == 10
    loop.close()
    assert holds(stored(service), gone) == 0


def test_a_learner_that_was_away_forgets_before_it_goes_on(service: Any) -> None:
    stays = tokens_of(service, "stays", 1)
    gone = [tokens for tokens in tokens_of(service, "gone", 0) if tokens not in stays]
    first = service.learner()
    service.run(first, lambda: (first.status()["checkpoint"] or 0) >= 2 and not first.status()["unsettled"])
    first.close()
    assert holds(stored(service), gone) > 25
    log = ErasureLog(service.store)
    log.request("nobody")
    log.request("gone")
    second = service.learner()
    service.run(second, lambda: second.status()["erased"] == 2)
    assert holds(stored(service), gone) == 0
    second.close()
    third = service.learner()
    service.run(third, lambda: third.status()["champion"])
    assert third.status()["feed"]["erased_records"] == 0, "asked once, done once"
    assert third.status()["feed"]["segments"]["a"]["tenants"] == 1


def test_a_learner_without_a_champion_forgets_too(service: Any) -> None:
    gone = tokens_of(service, "gone", 0)
    first = service.learner()
    service.run(first, lambda: first.status()["checkpoint"])
    first.close()
    shutil.rmtree(service.directory / "store/registry")
    ErasureLog(service.store).request("gone")
    second = service.learner()
    service.run(second, lambda: second.status()["erased"] == 1)
    assert second.status()["champion"] is None
    assert holds(stored(service), gone) == 0


def test_what_a_killed_learner_left_behind_is_removed(service: Any) -> None:
    gone = tokens_of(service, "gone", 0)
    first = service.learner()
    service.run(first, lambda: (first.status()["checkpoint"] or 0) >= 1 and not first.status()["unsettled"])
    first.close()
    root = next((service.directory / "store/learner").iterdir())
    newest = max(root.iterdir())
    ErasureLog(service.store).request("gone")
    old = Path(shutil.copytree(newest, service.directory / "old"))
    second = service.learner()
    service.run(second, lambda: second.status()["erased"] == 1)
    second.close()
    # As if it had been killed before it deleted the older one, and in the middle of another.
    shutil.copytree(old, root / "00000001", dirs_exist_ok=True)
    shutil.copytree(old, root / ".00000099.abc")
    shutil.rmtree(old)
    assert holds(stored(service), gone) > 25
    third = service.learner()
    service.run(third, lambda: third.status()["erased"] == 1)
    assert holds(stored(service), gone) == 0


def test_checkpoints_of_other_targets_are_erased_by_whoever_runs(service: Any, make_interaction: Any) -> None:
    reservoirs = Reservoirs()
    for index in range(40):
        reservoirs.add(make_interaction(index, tenant=("gone", "stays")[index % 2]))
    other = CheckpointStore(service.store, "other-target")
    other.save(Checkpoint({"version": "v"}, b"weights", reservoirs.to_bytes(), b"reader"))
    ErasureLog(service.store).request("gone")
    loop = service.learner()
    service.run(loop, lambda: loop.status()["erased"] == 1)
    checkpoint, problems = other.load()
    assert checkpoint is not None and not problems
    assert checkpoint.trainer == b"weights" and checkpoint.progress == {"version": "v", "erased": 1}
    left = Reservoirs.from_bytes(checkpoint.reservoirs)
    assert {size["tenants"] for size in left.sizes().values()} == {1}
    assert b"gone" not in stored(service)


def test_a_store_that_is_away_only_delays_an_erasure(service: Any, monkeypatch: Any) -> None:
    gone = tokens_of(service, "gone", 0)
    loop = service.learner()
    service.run(loop, lambda: (loop.status()["checkpoint"] or 0) >= 1 and not loop.status()["unsettled"])
    ErasureLog(service.store).request("gone")
    with monkeypatch.context() as patch:
        patch.setattr(ErasureLog, "_numbers", _no_store)
        service.run(loop, lambda: loop.status()["feed"]["erasure_trouble"])
        assert loop.status()["erased"] == 0
    service.run(loop, lambda: loop.status()["erased"] == 1)
    assert holds(stored(service), gone) == 0 and not loop.status()["feed"]["erasure_trouble"]


def test_weights_remember_whose_records_trained_them(service: Any) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        fingerprint = service.traffic.loaded.fingerprint
        save_drafter(service.traffic.drafter(), scratch, fingerprint)
        origin = Provenance(tenants=(tenant_mark("before"),))
        service.registry.publish(Path(scratch), origin, name="taught")
    service.decide("promote", "taught")
    service.serve(30, tenant="one")
    loop = service.learner()
    service.run(loop, lambda: loop.status()["slices"] >= 3)
    loop.close()
    checkpoint, _ = CheckpointStore(service.store, fingerprint).load()
    assert checkpoint is not None and checkpoint.progress["version"] == "taught"
    marks = sorted([tenant_mark("before"), tenant_mark("one")])
    assert checkpoint.progress["lineage"] == marks
    again = service.learner()
    service.run(again, lambda: again.status()["champion"])
    again.close()
    checkpoint, _ = CheckpointStore(service.store, fingerprint).load()
    assert checkpoint is not None and checkpoint.progress["lineage"] == marks


def test_a_learner_goes_on_at_another_node(service: Any, learner_config: LearnerConfig) -> None:
    """Same artifact store and Redis, nothing else."""
    tokens_of(service, "stays", 0)
    never = replace(learner_config, gate=replace(learner_config.gate, every_slices=10**6))
    first = service.learner(never)
    service.run(first, lambda: first.status()["slices"] >= 10 and not first.status()["unsettled"])
    first.close()
    sizes = first.status()["feed"]["segments"]["a"]
    shutil.rmtree(service.directory / "cache")
    elsewhere = replace(service.place, cache_dir=str(service.directory / "elsewhere"))
    second = service.learner(never, elsewhere)
    began = time.monotonic()
    service.run(second, lambda: second.status()["champion"])
    assert time.monotonic() - began < 30
    assert second.status()["slices"] >= first.status()["slices"]
    assert second.status()["steps"] >= first.status()["steps"]
    assert second.status()["feed"]["segments"]["a"]["long_term"] == sizes["long_term"]
    assert second.status()["feed"]["reader"]["duplicates"] == 0


def _no_store(self: ErasureLog) -> list[int]:
    from online_draft.errors import StoreError

    raise StoreError("the store is away")
