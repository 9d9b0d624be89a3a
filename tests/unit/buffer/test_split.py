from __future__ import annotations

from collections.abc import Callable

import pytest

from online_draft.buffer.split import first_turn, is_held_out
from online_draft.core import Interaction
from online_draft.errors import ConfigError

Make = Callable[..., Interaction]


def test_the_fraction_is_met(make_interaction: Make) -> None:
    held_out = sum(is_held_out(make_interaction(index), 0.2) for index in range(3000))
    assert 520 <= held_out <= 680


def test_nothing_and_everything_can_be_held_out(make_interaction: Make) -> None:
    assert not any(is_held_out(make_interaction(index), 0.0) for index in range(100))
    assert all(is_held_out(make_interaction(index), 1.0) for index in range(100))


def test_the_side_is_fixed_for_good(make_interaction: Make) -> None:
    # Changing the hash would move held-out records into training on the next release.
    assert [index for index in range(60) if is_held_out(make_interaction(index), 0.1)] == [
        6,
        7,
        9,
        14,
        19,
        21,
        25,
        28,
        43,
        57,
        58,
    ]


def test_the_side_depends_on_tenant_and_prompt_only(make_interaction: Make) -> None:
    for index in range(50):
        one = is_held_out(make_interaction(index), 0.5)
        other = make_interaction(index, output_ids=(9,), accepted_lengths=(1,), seed=1, segment="code")
        assert is_held_out(other, 0.5) is one
    sides = {is_held_out(make_interaction(1, tenant=f"t{number}"), 0.5) for number in range(20)}
    assert sides == {True, False}


def test_all_turns_of_a_conversation_share_a_side(make_interaction: Make) -> None:
    assistant = 7
    for index in range(50):
        turn = make_interaction(index).prompt_ids
        first = make_interaction(prompt_ids=(*turn, assistant))
        later = make_interaction(prompt_ids=(*turn, assistant, 40, 41, 42, assistant))
        assert is_held_out(first, 0.5, (assistant,)) is is_held_out(later, 0.5, (assistant,))


def test_without_a_marker_the_first_tokens_stand_for_the_turn() -> None:
    assert first_turn(tuple(range(1000))) == tuple(range(256))
    assert first_turn((1, 2, 3)) == (1, 2, 3)
    assert first_turn((1, 2, 9, 3, 9), (9,)) == (1, 2)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_out_of_range_is_refused(make_interaction: Make, fraction: float) -> None:
    with pytest.raises(ConfigError, match="held_out_fraction"):
        is_held_out(make_interaction(), fraction)
