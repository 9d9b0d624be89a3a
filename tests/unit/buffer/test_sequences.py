from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from online_draft.buffer.sequences import SequenceTrack


@given(st.lists(st.integers(1, 40), max_size=80))
def test_doubles_and_gaps_are_found_in_any_order(numbers: list[int]) -> None:
    track, seen = SequenceTrack(1, 0), set[int]()
    for number in numbers:
        assert track.see(number) is (number not in seen)
        seen.add(number)
        assert (track.first, track.last) == (min(seen), max(seen))
        assert track.missing == max(seen) - min(seen) + 1 - len(seen)
        assert track.gaps == sorted(track.gaps)


def test_a_track_from_the_beginning_counts_what_came_before_the_first() -> None:
    track = SequenceTrack(0, 0)
    assert track.see(4)
    assert (track.missing, track.gaps) == (3, [(1, 3)])


def test_gaps_stay_bounded() -> None:
    track = SequenceTrack(0, 0)
    for number in range(2, 40_000, 2):
        track.see(number)
    assert len(track.gaps) == 16_384
    assert track.missing == 19_999
    assert not track.see(1)
    assert track.see(39_997)
    assert track.missing == 19_998
