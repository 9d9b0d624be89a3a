from __future__ import annotations

import random

import pytest
import torch

from online_draft.models.ring import FeatureRing


def rows(first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    at = torch.arange(first, first + count)
    return at.float().unsqueeze(1).expand(-1, 3).contiguous(), at + 1


def test_the_last_rows_are_kept_whatever_the_chunks() -> None:
    choose = random.Random(1)
    ring = FeatureRing(2, 8, 3)
    end = 0
    for _ in range(60):
        count = choose.choice([1, 2, 3, 8, 11, 30])
        ring.append(1, *rows(end, count))
        end += count
        assert ring.end[1] == end
        kept = ring.available(1)
        assert kept == min(8, end)
        for wanted in (1, kept):
            hidden, tokens = ring.rows(1, wanted)
            assert hidden[:, 0].tolist() == list(range(end - wanted, end))
            assert tokens.tolist() == list(range(end - wanted + 1, end + 1))
    assert ring.available(0) == 0


def test_rows_of_several_slots_enter_in_one_call() -> None:
    ring = FeatureRing(3, 4, 3)
    ends = [0, 0, 0]
    choose = random.Random(2)
    for _ in range(20):
        slots = choose.sample(range(3), choose.randint(1, 3))
        counts = [choose.randint(0, 4) for _ in slots]
        parts = [rows(100 * slot + ends[slot], count) for slot, count in zip(slots, counts, strict=True)]
        ring.append_many(slots, counts, torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))
        for slot, count in zip(slots, counts, strict=True):
            ends[slot] += count
        for slot in range(3):
            hidden, _ = ring.rows(slot, ring.available(slot))
            first = 100 * slot + max(0, ends[slot] - 4)
            assert hidden[:, 0].tolist() == list(range(first, 100 * slot + ends[slot]))


def test_a_slot_may_come_twice_in_one_call() -> None:
    """As the end of a prompt does beside sequences that draft: its rows, then the root's token."""
    ring = FeatureRing(2, 8, 3)
    ring.append_many([1, 0, 1], [3, 2, 1], torch.arange(6.0)[:, None].expand(-1, 3), torch.arange(6))
    assert ring.end == [2, 4]
    assert ring.rows(1, 4)[1].tolist() == [0, 1, 2, 5]
    assert ring.rows(0, 2)[1].tolist() == [3, 4]


def test_after_a_rebase_rows_have_later_positions() -> None:
    ring = FeatureRing(1, 8, 3)
    ring.append(0, *rows(0, 5))
    ring.reset(0)
    ring.rebase(0, 40)
    ring.append(0, *rows(40, 3))
    assert (ring.end[0], ring.available(0)) == (43, 3)
    assert ring.rows(0, 3)[0][:, 0].tolist() == [40, 41, 42]
    with pytest.raises(ValueError, match="reset"):
        ring.rebase(0, 9)


def test_every_reset_starts_another_epoch() -> None:
    first, second = FeatureRing(2, 4, 3), FeatureRing(2, 4, 3)
    epochs = [*first.epoch, *second.epoch]
    first.reset(0)
    assert len({*epochs, first.epoch[0]}) == 5


def test_rows_that_are_not_there_are_refused() -> None:
    ring = FeatureRing(1, 4, 3)
    ring.append(0, *rows(0, 2))
    with pytest.raises(ValueError, match="holds 2 rows"):
        ring.rows(0, 3)
