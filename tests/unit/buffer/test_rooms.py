from __future__ import annotations

from collections import Counter

from online_draft.buffer.rooms import Founders, Hardest, Room, Sample


def test_a_ring_keeps_the_newest_of_one_tenant_alone() -> None:
    room: Room[int] = Room(5)
    for item in range(12):
        room.add("a", item)
    assert list(room) == [7, 8, 9, 10, 11]


def test_a_flood_pushes_out_its_own_only() -> None:
    room: Room[int] = Room(100)
    for item in range(30):
        room.add("quiet", item)
    for item in range(1000, 6000):
        room.add("flood", item)
    assert room.kept["quiet"] == list(range(30))
    assert room.kept["flood"] == list(range(5930, 6000))


def test_latecomers_get_an_equal_share() -> None:
    room: Room[int] = Room(90)
    for item in range(500):
        room.add("first", item)
    for tenant in ("second", "third"):
        for item in range(500):
            room.add(tenant, item)
    assert {tenant: len(items) for tenant, items in room.kept.items()} == {
        "first": 30, "second": 30, "third": 30,
    }  # fmt: skip


def test_founders_stay_but_for_the_newest_of_who_has_most() -> None:
    room: Founders[int] = Founders(10)
    for item in range(50):
        room.add("a", item)
    assert list(room) == list(range(10))
    for item in range(100, 150):
        room.add("b", item)
    assert room.kept == {"a": [0, 1, 2, 3, 4], "b": [100, 101, 102, 103, 104]}


def test_a_sample_is_uniform_for_each_tenant_even_under_a_flood() -> None:
    halves: Counter[tuple[str, bool]] = Counter()
    for seed in range(60):
        room: Sample[int] = Sample(40, str(seed))
        for item in range(400):
            room.add("flood", item)
            if item % 4 == 0:
                room.add("quiet", item)
        assert len(room) == 40
        assert abs(len(room.kept["flood"]) - len(room.kept["quiet"])) <= 1
        halves.update((tenant, item < 200) for tenant, items in room.kept.items() for item in items)
    for tenant in ("flood", "quiet"):
        # 1,200 draws each: five standard deviations of their share are 7 %.
        assert abs(halves[tenant, True] / 1200 - 0.5) < 0.07


def test_a_restored_sample_goes_on_as_the_one_that_stopped() -> None:
    whole, stopped = Sample[int](20, "s"), Sample[int](20, "s")
    for item in range(100):
        for room in (whole, stopped):
            room.add("ab"[item % 2], item)
    restored: Sample[int] = Sample(20, "s")
    restored.restore(stopped.state(int), int)
    for item in range(100, 300):
        for room in (whole, restored):
            room.add("ab"[item % 3 == 0], item)
    assert restored.kept == whole.kept


def test_the_hardest_of_a_window_are_kept() -> None:
    room: Hardest[str] = Hardest(3, window=10)
    for number, score in enumerate([0.9, 0.1, 0.8, 0.2, 0.3, 0.7], start=1):
        room.offer("a", f"r{number}", score, number)
    assert sorted(room) == ["r2", "r4", "r5"]
    room.offer("a", "r13", 0.95, 13)
    assert sorted(room) == ["r13", "r4", "r5"], "r2 came too long ago"
    restored: Hardest[str] = Hardest(2, window=10)
    restored.restore(room.state(str), str)
    assert sorted(restored) == ["r4", "r5"]
    restored.offer("a", "r14", 0.01, 14)
    assert sorted(restored) == ["r14", "r5"]


def test_erasing_gives_back_what_a_tenant_had() -> None:
    room: Hardest[str] = Hardest(3, window=10)
    room.offer("a", "x", 0.1, 1)
    room.offer("b", "y", 0.2, 2)
    assert room.erase("a") == ["x"] and room.erase("a") == []
    assert list(room) == ["y"]
