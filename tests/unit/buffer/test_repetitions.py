from __future__ import annotations

import random
from collections.abc import Callable

from online_draft.buffer.repetitions import Repetitions, goes_in_circles
from online_draft.core import Interaction

Make = Callable[..., Interaction]


def answer(seed: int, length: int = 20) -> dict[str, tuple[int, ...]]:
    rng = random.Random(seed)
    return {
        "output_ids": tuple(rng.randrange(2000) for _ in range(length)),
        "accepted_lengths": (length,),
        "tried": (),
        "accepted": (),
    }


def test_the_same_prompt_with_other_answers_is_a_repetition_after_some(make_interaction: Make) -> None:
    repetitions = Repetitions(1000, repeats=3)
    found = [repetitions.note(make_interaction(0, **answer(seed))) for seed in range(5)]
    assert found == ["new"] * 3 + ["repetition"] * 2


def test_the_same_long_answer_to_other_prompts_is_one_too(make_interaction: Make) -> None:
    repetitions = Repetitions(1000, repeats=3)
    found = [repetitions.note(make_interaction(index, **answer(0))) for index in range(5)]
    assert found == ["new"] * 3 + ["repetition"] * 2
    short = [repetitions.note(make_interaction(index, **answer(0, 2))) for index in range(10, 30)]
    assert set(short) == {"new"}, 'twenty prompts may all be answered with "yes"'


def test_tenants_share_nothing(make_interaction: Make) -> None:
    repetitions = Repetitions(1000, repeats=1)
    assert repetitions.note(make_interaction(0, tenant="a")) == "new"
    assert repetitions.note(make_interaction(0, tenant="b")) == "new"
    assert repetitions.note(make_interaction(0, tenant="a")) == "duplicate"
    repetitions.forget("a")
    assert repetitions.note(make_interaction(0, tenant="a")) == "new"
    assert repetitions.note(make_interaction(0, tenant="b")) == "duplicate"


def test_a_flood_makes_only_itself_forgotten(make_interaction: Make) -> None:
    repetitions = Repetitions(200, repeats=1)
    for index in range(20):
        repetitions.note(make_interaction(index, tenant="quiet"))
    for index in range(2000):
        repetitions.note(make_interaction(index, tenant="flood"))
    assert {repetitions.note(make_interaction(index, tenant="quiet")) for index in range(20)} == {"duplicate"}
    restored = Repetitions(200, repeats=1)
    restored.restore(repetitions.state())
    assert {restored.note(make_interaction(index, tenant="quiet")) for index in range(20)} == {"duplicate"}


def test_answers_in_circles_are_told_from_others() -> None:
    assert goes_in_circles([1, 2, 3, 4, 5] * 20) and goes_in_circles([7] * 40)
    assert not goes_in_circles([7] * 10), "too short to say"
    rng = random.Random(0)
    assert not goes_in_circles([rng.randrange(50) for _ in range(200)])
    assert not goes_in_circles([1, 2, 3, 4, 5] * 3 + [rng.randrange(50) for _ in range(20)])
