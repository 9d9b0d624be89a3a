"""Mixes of training batches, and their comparison."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from online_draft.bench.mixes.measure import DEFAULT, MIXES, MixOptions, answers, learn
from online_draft.bench.shift import ShiftOptions
from online_draft.bench.shift.mix import Mix
from online_draft.buffer.reservoir_config import ReservoirConfig
from online_draft.errors import ConfigError
from online_draft.learner.config import LearnerConfig
from online_draft.models.loading import load_target


def test_a_mix_is_written_as_it_is_read_and_goes_into_the_reservoirs() -> None:
    mix = Mix.parse("recent=0.5, long=0.2,hard=0.3")
    assert mix == Mix(0.5, 0.2, 0.3, 0.0) == Mix.parse(str(mix))
    config = mix.within(ReservoirConfig(recent=7))
    assert (config.recent_share, config.hard_share, config.anchor_share, config.recent) == (0.5, 0.3, 0.0, 7)
    assert Mix.of(config) == mix
    assert Mix(0.6, 0.25, 0.1, 0.05) == DEFAULT and DEFAULT.within(ReservoirConfig()) == ReservoirConfig()


@pytest.mark.parametrize(
    "text", ["recent=0.5", "recent=2,long=-1", "fresh=1", "recent", "recent=x", "recent=0.5,recent=0.5", ""]
)
def test_what_is_no_mix_is_told_what_is_accepted(text: str) -> None:
    with pytest.raises(ConfigError, match="recent, long, hard and anchor that sum to 1") as error:
        Mix.parse(text)
    assert error.value.field == "mix"


def test_a_live_system_has_its_settings() -> None:
    ShiftOptions(simulate=True, mix=Mix(recent=1.0)).check()
    with pytest.raises(ConfigError, match="mix: is of the simulation"):
        ShiftOptions(mix=Mix(recent=1.0)).check()


def test_the_rooms_are_the_defaults_an_eighth_as_large() -> None:
    usual, small = LearnerConfig().reservoirs, MixOptions().rooms
    for name in ("recent", "long_term", "hard", "hard_window", "anchors"):
        assert 8 * getattr(small, name) == getattr(usual, name)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_run_depends_on_nothing_but_what_it_is_given(one_thread: None) -> None:
    options = replace(
        MixOptions(),
        requests=3,
        held_out=2,
        records=2,
        max_new_tokens=12,
        kernels="off",
        order=("sql", "math"),
    )
    loaded = load_target("embedded")
    made = answers(options, loaded, 0)
    assert [len(one.stream) for one in made] == [3, 3] and [len(one.held_out) for one in made] == [2, 2]
    assert len({one.prompt_ids for part in made for one in (*part.stream, *part.held_out)}) == 10
    first, again = (learn(options, loaded, MIXES[0], 0, made) for _ in range(2))
    assert first == again
    assert all(tau >= 1 for tau in (*first.first, *first.second)) and first.as_json()["mix"]["recent"] == 0.6
