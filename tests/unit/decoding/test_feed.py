"""Rows on their way into the feature ring: late, but the same as at once."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from online_draft.decoding.feed import RingFeed
from online_draft.decoding.runners.base import Ints, Moves, Rows
from online_draft.models.ring import FeatureRing

SLOTS, WINDOW, HIDDEN = 3, 5, 4


class RingOnly:
    """A runner whose cache is of no interest."""

    def __init__(self, ring: FeatureRing) -> None:
        self.ring = ring
        self.calls = 0

    def apply(self, moves: Moves, rows: Rows) -> None:
        self.calls += 1
        at = 0
        for slot, count in zip(moves.slots, moves.counts, strict=True):
            rows_C = moves.rows[at : at + count]
            self.ring.append(slot, rows.hidden_NF[rows_C], torch.tensor(moves.tokens[at : at + count]))
            at += count

    def feed(self, place_M: Ints, hidden_NF: Tensor, row_M: Ints, token_M: Ints) -> None:
        self.calls += 1
        assert len(set(place_M.tolist())) == len(place_M)
        self.ring.hidden_RF[torch.from_numpy(place_M)] = hidden_NF[torch.from_numpy(row_M)]
        self.ring.next_tokens_R[torch.from_numpy(place_M)] = torch.from_numpy(token_M)


def new_feed() -> tuple[RingFeed, RingOnly]:
    runner = RingOnly(FeatureRing(SLOTS, WINDOW, HIDDEN))
    return RingFeed(runner, runner.ring), runner  # type: ignore[arg-type]


def random_step(rng: random.Random, tensor: torch.Tensor) -> Moves:
    """Some slots get one row, some a chunk, of which rows before the window are skipped."""
    moves = Moves()
    row = 0
    for slot in rng.sample(range(SLOTS), rng.randint(1, SLOTS)):
        count = rng.choice((1, 1, 2, WINDOW, WINDOW + 2))
        kept = min(count, WINDOW)
        if kept < count:
            moves.skips[slot] = count - kept
        moves.slots.append(slot)
        moves.counts.append(kept)
        moves.rows += range(row + count - kept, row + count)
        moves.tokens += [rng.randrange(100) for _ in range(kept)]
        row += count
        if rng.random() < 0.3:  # a chunk's last row is the root
            moves.slots.append(slot)
            moves.counts.append(1)
            moves.rows.append(row)
            moves.tokens.append(rng.randrange(100))
            row += 1
    assert row <= len(tensor)
    return moves


def rows_of(tensor: torch.Tensor, reused: bool = False) -> Rows:
    return Rows(tensor, tensor, [], 0, [], reused=reused)


@pytest.mark.parametrize("seed", range(8))
def test_the_ring_is_the_same_as_if_every_step_had_been_written_at_once(seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    late, _ = new_feed()
    prompt, _ = new_feed()
    for step in range(200):
        hidden = torch.randn(SLOTS * (WINDOW + 3), HIDDEN)
        moves = random_step(rng, hidden)
        late.add(moves, rows_of(hidden), drafting=step % 7 == 0)
        prompt.add(moves, rows_of(hidden), drafting=True)
        prompt.flush()
        if rng.random() < 0.1:
            slot, position = rng.randrange(SLOTS), rng.randrange(20)
            for feed in (late, prompt):
                feed.forget(slot)
                feed._ring.reset(slot)
                feed._ring.rebase(slot, position)
        if rng.random() < 0.1:
            late.flush()
            for slot in range(SLOTS):
                count = prompt._ring.available(slot)
                assert late._ring.end[slot] == prompt._ring.end[slot]
                for ours, theirs in zip(
                    late._ring.rows(slot, count), prompt._ring.rows(slot, count), strict=True
                ):
                    assert torch.equal(ours, theirs)


def test_rows_of_buffers_that_are_used_again_are_kept() -> None:
    feed, runner = new_feed()
    buffer = torch.ones(1, HIDDEN)
    feed.add(Moves([], [], [1], [1], [0], [7]), rows_of(buffer, reused=True), drafting=False)
    buffer.zero_()
    feed.flush()
    assert torch.equal(runner.ring.rows(1, 1)[0], torch.ones(1, HIDDEN))


def test_plain_steps_are_written_many_at_a_time_and_never_pile_up() -> None:
    feed, runner = new_feed()
    for token in range(1280):
        feed.add(Moves([], [], [0], [1], [0], [token]), rows_of(torch.randn(1, HIDDEN)), drafting=False)
        assert len(feed._held) <= 128
    assert runner.calls == 10
