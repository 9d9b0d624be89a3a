from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from online_draft.buffer.reservoirs import ReservoirConfig, Reservoirs
from online_draft.buffer.split import is_held_out
from online_draft.core import Interaction
from online_draft.errors import ConfigError, StoreError
from online_draft.store.packing import pack

Make = Callable[..., Interaction]
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


def test_repetitions_are_dropped_and_counted(make_interaction: Make) -> None:
    reservoirs = Reservoirs(SMALL)
    first = reservoirs.add(make_interaction(1))
    assert first != "duplicate"
    assert reservoirs.add(make_interaction(1, seed=5, finished_at_ms=9)) == "duplicate"
    assert reservoirs.add(make_interaction(1, tenant="other")) != "duplicate"
    assert reservoirs.duplicates == 1


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
        config = ReservoirConfig(recent=1, long_term=30, held_out_fraction=0.0, recent_share=0.0, seed=seed)
        reservoirs = Reservoirs(config)
        for index in range(200):
            reservoirs.add(make_interaction(index))
        for record in reservoirs.sample(60, random.Random(seed)):
            kept[(record.seed - 1234) // 100] += 1
    assert 0.85 < kept[0] / kept[1] < 1.18


def test_recent_share_follows_the_traffic_and_the_rest_remembers(make_interaction: Make) -> None:
    reservoirs = Reservoirs(ReservoirConfig(recent=20, recent_share=0.7, held_out_fraction=0.0))
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
    small = ReservoirConfig(recent=3, long_term=4, held_out=2, segments=1)
    sizes = Reservoirs.from_bytes(reservoirs.to_bytes(), small).sizes()
    assert {name: (s["recent"], s["long_term"], s["held_out"]) for name, s in sizes.items()} == {
        "b": (3, 4, 2)
    }


@pytest.mark.parametrize(
    "data", [b"", b"junk", pack([9, [], [], [], 0]), pack([1, [["a", [b"x"], [], [], 1]], [], [], 0])]
)
def test_a_damaged_state_is_refused(data: bytes) -> None:
    with pytest.raises(StoreError):
        Reservoirs.from_bytes(data)


@pytest.mark.parametrize("field", ["recent", "long_term", "held_out", "segments", "recent_share"])
def test_a_config_out_of_range_names_its_field(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        ReservoirConfig(**{field: -1})
