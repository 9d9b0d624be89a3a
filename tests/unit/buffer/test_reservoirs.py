from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from online_draft.buffer.reservoir_config import ReservoirConfig
from online_draft.buffer.reservoirs import PLACES, Reservoirs, acceptance, erase_stored
from online_draft.buffer.split import is_held_out
from online_draft.core import Interaction
from online_draft.errors import ConfigError, StoreError
from online_draft.store.packing import pack

Make = Callable[..., Interaction]
NO_EXTRAS: dict[str, Any] = {"hard_share": 0.0, "anchor_share": 0.0}
SMALL = ReservoirConfig(recent=20, long_term=30, held_out=10, held_out_fraction=0.2, segments=3)


def test_held_out_records_are_never_sampled(make_interaction: Make) -> None:
    reservoirs = Reservoirs(SMALL)
    places = {index: reservoirs.add(make_interaction(index)) for index in range(300)}
    for index, place in places.items():
        assert (place == "held_out") is is_held_out(make_interaction(index), 0.2)
    sampled = {record.seed - 1234 for record in reservoirs.sample(500, random.Random(0))}
    assert all(places[index] == "training" for index in sampled)
    assert len(sampled) > 30
    held_out = [record.seed - 1234 for record in reservoirs.held_out()]
    assert held_out == [index for index, place in places.items() if place == "held_out"][-10:]


def test_doubles_are_dropped(make_interaction: Make) -> None:
    reservoirs = Reservoirs(SMALL)
    first = reservoirs.add(make_interaction(1))
    assert first != "duplicate"
    assert reservoirs.add(make_interaction(1, seed=5, finished_at_ms=9)) == "duplicate"
    assert reservoirs.add(make_interaction(1, tenant="other")) != "duplicate"


def test_sizes_stay_bounded_by_segment_and_segments_by_number(make_interaction: Make) -> None:
    reservoirs = Reservoirs(SMALL)
    for index in range(400):
        reservoirs.add(make_interaction(index, segment=f"s{index // 100}"))
    sizes = reservoirs.sizes()
    assert list(sizes) == ["s1", "s2", "s3"]
    for size in sizes.values():
        assert (size["recent"], size["long_term"], size["held_out"]) == (20, 30, 10)
        assert 60 < size["seen"] < 95
    assert reservoirs.sample(50, random.Random(0))


def test_long_term_memory_is_a_fair_sample_of_all_that_came(make_interaction: Make) -> None:
    kept = [0, 0]
    for seed in range(30):
        config = ReservoirConfig(
            recent=1, long_term=30, held_out_fraction=0.0, recent_share=0.0, seed=seed, **NO_EXTRAS
        )
        reservoirs = Reservoirs(config)
        for index in range(200):
            reservoirs.add(make_interaction(index))
        for record in reservoirs.sample(60, random.Random(seed)):
            kept[(record.seed - 1234) // 100] += 1
    assert 0.85 < kept[0] / kept[1] < 1.18


def test_recent_share_follows_the_traffic_and_the_rest_remembers(make_interaction: Make) -> None:
    reservoirs = Reservoirs(ReservoirConfig(recent=20, recent_share=0.7, held_out_fraction=0.0, **NO_EXTRAS))
    for index in range(100):
        reservoirs.add(make_interaction(index, segment="old"))
    for index in range(100, 200):
        reservoirs.add(make_interaction(index, segment="new"))
    sampled = reservoirs.sample(2000, random.Random(3))
    new = sum(record.segment == "new" for record in sampled) / 2000
    assert 0.81 < new < 0.89


def test_held_out_records_are_chosen_by_segment_and_time(make_interaction: Make) -> None:
    reservoirs = Reservoirs(ReservoirConfig(held_out_fraction=1.0))
    for index in range(10):
        reservoirs.add(make_interaction(index, segment="ab"[index % 2]))
    assert len(reservoirs.held_out()) == 10
    assert [record.seed - 1234 for record in reservoirs.held_out("a")] == [0, 2, 4, 6, 8]
    assert [r.seed - 1234 for r in reservoirs.held_out(since_ms=1_700_000_000_007)] == [7, 8, 9]
    assert reservoirs.held_out("unknown") == [] == reservoirs.sample(5, random.Random(0))


def test_a_restored_learner_goes_on_as_the_one_that_stopped(make_interaction: Make) -> None:
    whole, stopped = Reservoirs(SMALL), Reservoirs(SMALL)
    for index in range(150):
        whole.add(make_interaction(index % 140, segment="ab"[index % 2]))
        stopped.add(make_interaction(index % 140, segment="ab"[index % 2]))
    restored = Reservoirs.from_bytes(stopped.to_bytes(), SMALL)
    for index in range(130, 300):
        whole.add(make_interaction(index, segment="ab"[index % 2]))
        restored.add(make_interaction(index, segment="ab"[index % 2]))
    assert restored.to_bytes() == whole.to_bytes()
    assert restored.sample(40, random.Random(1)) == whole.sample(40, random.Random(1))


def test_a_smaller_config_cuts_a_restored_state_down(make_interaction: Make) -> None:
    reservoirs = Reservoirs(SMALL)
    for index in range(200):
        reservoirs.add(make_interaction(index, segment="ab"[index % 2]))
    small = replace(SMALL, recent=3, long_term=4, held_out=2, segments=1)
    sizes = Reservoirs.from_bytes(reservoirs.to_bytes(), small).sizes()
    assert {name: (s["recent"], s["long_term"], s["held_out"]) for name, s in sizes.items()} == {
        "b": (3, 4, 2)
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        pack([9, [], [], [], []]),
        pack([2, [b"x"], [], [], []]),
        pack([2, [], [["a", 1, {}]], [], []]),
    ],
)
def test_a_damaged_state_is_refused(data: bytes) -> None:
    with pytest.raises(StoreError):
        Reservoirs.from_bytes(data)


@pytest.mark.parametrize(
    "field", ["recent", "long_term", "held_out", "segments", "recent_share", "tenant_cap"]
)
def test_a_config_out_of_range_names_its_field(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        ReservoirConfig(**{field: -1})


def test_shares_that_are_too_much_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="recent_share"):
        ReservoirConfig(recent_share=0.7, hard_share=0.2, anchor_share=0.2)


def hardness(per_mille: int) -> dict[str, Any]:
    return {"tried": (1000,), "accepted": (per_mille,)}


def test_acceptance_is_unknown_without_enough_tries(make_interaction: Make) -> None:
    assert acceptance(make_interaction(tried=(4, 3), accepted=(3, 0))) is None
    assert acceptance(make_interaction(tried=(6, 4), accepted=(4, 1))) == 0.5


def test_a_batch_is_mixed_as_configured(make_interaction: Make) -> None:
    config = ReservoirConfig(
        recent=50, long_term=1000, hard=50, anchors=50, held_out_fraction=0.0,
        recent_share=0.4, hard_share=0.3, anchor_share=0.2,
    )  # fmt: skip
    reservoirs = Reservoirs(config)
    for index in range(1000):
        # Anchors are the first 50, recent the last; in between 50 hard ones.
        reservoirs.add(make_interaction(index, **hardness(1 if 500 <= index < 550 else 900)))
    drawn = [record.seed - 1234 for record in reservoirs.sample(10_000, random.Random(0))]
    assert abs(sum(index < 50 for index in drawn) / 10_000 - (0.2 + 0.005)) < 0.02
    assert abs(sum(500 <= index < 550 for index in drawn) / 10_000 - (0.3 + 0.005)) < 0.02
    assert abs(sum(index >= 950 for index in drawn) / 10_000 - (0.4 + 0.005)) < 0.02


def test_shares_of_empty_sources_go_to_the_others(make_interaction: Make) -> None:
    reservoirs = Reservoirs(ReservoirConfig(hard_share=1.0, recent_share=0.0, anchor_share=0.0))
    while not reservoirs.sizes().get("sql", {}).get("recent"):
        reservoirs.add(make_interaction(len(reservoirs.held_out()), tried=(), accepted=()))
    assert len(reservoirs.sample(5, random.Random(0))) == 5, "plain decoding has no acceptance"


def test_a_flood_does_not_take_over_what_is_learnt(make_interaction: Make) -> None:
    """One tenant sends fifty times as much as two others together, in other prompts each time."""
    reservoirs = Reservoirs(ReservoirConfig(recent=100, long_term=100, hard=40, anchors=40))
    for index in range(5000):
        reservoirs.add(make_interaction(index, tenant="flood", **hardness(0)))
        if index % 100 < 2:
            reservoirs.add(make_interaction(index, tenant="ab"[index % 2], **hardness(500)))
    sampled = Counter(record.tenant for record in reservoirs.sample(4000, random.Random(0)))
    assert sampled["flood"] / 4000 < 0.53
    assert min(sampled["a"], sampled["b"]) / 4000 > 0.15
    held_out = Counter(record.tenant for record in reservoirs.held_out())
    assert held_out["a"] >= 3 and held_out["b"] >= 3, "nor what is judged by"


def test_a_flood_of_repetitions_is_not_kept(make_interaction: Make) -> None:
    reservoirs = Reservoirs(ReservoirConfig(held_out_fraction=0.0))
    rng = random.Random(0)

    def flood(index: int) -> Interaction:
        kind = index % 3
        output = tuple(rng.randrange(2000) for _ in range(40))
        if kind == 1:
            output = tuple(range(40))
        elif kind == 2:
            output = (5, 6, 7, 8) * 10
        return make_interaction(
            0 if kind == 0 else index, tenant="flood", output_ids=output, accepted_lengths=(40,)
        )

    places = Counter(reservoirs.add(flood(index)) for index in range(3000))
    assert places["repetition"] > 2900 and places["training"] <= 8
    for index in range(20):
        assert reservoirs.add(make_interaction(index, tenant="quiet")) == "training"
    sampled = Counter(record.tenant for record in reservoirs.sample(2000, random.Random(0)))
    assert sampled["flood"] / 2000 < 0.5


def test_a_flood_of_segments_pushes_out_its_own(make_interaction: Make) -> None:
    reservoirs = Reservoirs(ReservoirConfig(segments=8))
    for index in range(60):
        reservoirs.add(make_interaction(index, tenant="a", segment="sql"))
        reservoirs.add(make_interaction(index, tenant="b", segment="code"))
    for index in range(500):
        reservoirs.add(make_interaction(index, tenant="flood", segment=f"s{index}"))
    assert {"sql", "code"} < set(reservoirs.sizes()) and len(reservoirs.sizes()) == 8
    sampled = Counter(record.tenant for record in reservoirs.sample(2000, random.Random(0)))
    assert sampled["flood"] / 2000 < 0.53


def test_nothing_held_out_is_ever_trained_on(make_interaction: Make) -> None:
    """Over restarts, doubles, later turns, other segments, and another fraction from one day to the next."""
    opening, rng = (7, 8), random.Random(0)
    reservoirs = Reservoirs(replace(SMALL, held_out_fraction=0.3), opening)
    judged: set[tuple[int, ...]] = set()

    def first(record: Interaction) -> tuple[int, ...]:
        ids = record.prompt_ids
        return ids[: ids.index(7)]

    for round_ in range(6):
        for _ in range(300):
            index = rng.randrange(200)
            turns = tuple(token for turn in range(rng.randrange(3)) for token in (300 + turn, *opening))
            prompt = (*make_interaction(index).prompt_ids, *opening, *turns)
            record = make_interaction(
                index, prompt_ids=prompt, segment=rng.choice("abc"), seed=rng.randrange(10**6),
                output_ids=tuple(rng.randrange(2000) for _ in range(5)),
            )  # fmt: skip
            assert reservoirs.add(record) in PLACES
        judged = {first(record) for record in reservoirs.held_out() + reservoirs.held_out(frozen=True)}
        trained = {first(record) for record in reservoirs.sample(3000, rng)}
        assert judged and trained and not judged & trained
        fraction = 0.3 if round_ % 2 else 0.1
        reservoirs = Reservoirs.from_bytes(
            reservoirs.to_bytes(), replace(SMALL, held_out_fraction=fraction), opening
        )
        trained = {first(record) for record in reservoirs.sample(3000, rng)}
        assert not {first(record) for record in reservoirs.held_out()} & trained


def test_the_first_held_out_records_stay_for_judging(make_interaction: Make) -> None:
    reservoirs = Reservoirs(ReservoirConfig(held_out=5, anchors=3, held_out_fraction=1.0))
    for index in range(50):
        reservoirs.add(make_interaction(index))
    assert [record.seed - 1234 for record in reservoirs.held_out()] == [45, 46, 47, 48, 49]
    assert [record.seed - 1234 for record in reservoirs.held_out(frozen=True)] == [0, 1, 2]


def test_an_erased_tenant_leaves_nothing(make_interaction: Make) -> None:
    reservoirs = Reservoirs(SMALL)
    for index in range(200):
        reservoirs.add(
            make_interaction(index, tenant="ab"[index % 2], segment="xy"[index // 100], **hardness(7))
        )
    before = reservoirs.to_bytes()
    config = replace(SMALL, recent=99)
    stored = Reservoirs.from_bytes(erase_stored(before, {"a"}), config)
    gone = reservoirs.erase("a")
    assert gone > 20 and reservoirs.erase("a") == 0
    for left in (reservoirs, stored):
        kept = left.sample(500, random.Random(0)) + left.held_out() + left.held_out(frozen=True)
        assert {record.tenant for record in kept} == {"b"}
    assert erase_stored(before, {"a"}) == reservoirs.to_bytes()
    assert b"a" not in {key.encode() for key in reservoirs._repetitions._counts}
    assert reservoirs.erase("b") and reservoirs.sizes() == {}
    assert Reservoirs.from_bytes(erase_stored(b"junk", {"a"})).sizes() == {}, "better nothing than unread"


def test_a_checkpoint_holds_each_record_once(make_interaction: Make) -> None:
    reservoirs = Reservoirs(ReservoirConfig(held_out_fraction=0.0))
    for index in range(60):
        output = tuple(1000 + (index * 131 + place * 7) % 1000 for place in range(200))
        reservoirs.add(make_interaction(index, output_ids=output, accepted_lengths=(200,), **hardness(5)))
    once = 60 * 400
    assert once < len(reservoirs.to_bytes()) < 2 * once
