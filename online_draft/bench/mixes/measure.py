"""Two domains one after the other; the student's replayed τ on held-out answers of both."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from online_draft.bench.shift.mix import Mix
from online_draft.bench.shift.options import ShiftOptions
from online_draft.bench.shift.phases import Phase, Traffic
from online_draft.bench.shift.serving import Server
from online_draft.buffer.reservoir_config import ReservoirConfig
from online_draft.buffer.reservoirs import Reservoirs
from online_draft.core import Interaction
from online_draft.learner.config import LearnerConfig
from online_draft.learner.rate import LearningRate
from online_draft.learner.student import Student
from online_draft.models.artifact import load_drafter
from online_draft.models.drafter import Drafter
from online_draft.models.embedded import domains
from online_draft.models.loading import LoadedTarget
from online_draft.training.replay import mean_accepted_length, replayed_tau

_DRAFTERS = Path(domains.__file__).parent / "drafters"
_NODES = 16

DEFAULT = Mix.of(LearnerConfig().reservoirs)
MIXES = (
    DEFAULT,
    Mix(recent=1.0),
    Mix(recent=0.6, long=0.4),
    Mix(recent=0.3, long=0.55, hard=0.1, anchor=0.05),
    Mix(recent=0.5, long=0.15, hard=0.3, anchor=0.05),
)


@dataclass(frozen=True, slots=True)
class MixOptions:
    """`requests` of each of the two domains of `order`, an update on `records` records after each. Rooms are
    an eighth of the defaults', so that a phase outlasts what is recent as eight times as many would."""

    order: tuple[str, str] = ("python", "story")
    requests: int = 128
    held_out: int = 32
    records: int = 8
    max_new_tokens: int = 64
    temperature: float = 0.6
    kernels: str = "wait"
    rooms: ReservoirConfig = field(
        default_factory=lambda: replace(
            LearnerConfig().reservoirs,
            recent=64, long_term=128, hard=16, hard_window=256, anchors=8, held_out_fraction=0.0,
        )
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answers:
    """Of one domain: those that are learnt from, in their order, and those that judge."""

    stream: Sequence[Interaction]
    held_out: Sequence[Interaction]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Replayed τ: of the first domain before anything was learnt, at the end of its phase and of the second
    one's; of the second domain before, half-way and at the end."""

    mix: Mix
    seed: int
    first: tuple[float, float, float]
    second: tuple[float, float, float]

    @property
    def kept(self) -> float:
        """τ on the first domain after the second, over before."""
        return self.first[2] / self.first[1]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "mix": asdict(self.mix),
            "seed": self.seed,
            "first": [round(tau, 4) for tau in self.first],
            "second": [round(tau, 4) for tau in self.second],
            "kept": round(self.kept, 4),
        }


def answers(options: MixOptions, loaded: LoadedTarget, seed: int) -> list[Answers]:
    """What the target answers in either domain, served with the embedded baseline, whose acceptance says what
    is hard."""
    asked = ShiftOptions(
        order=options.order,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        seed=seed,
        kernels=options.kernels,  # type: ignore[arg-type]  # checked by the engine
    )
    server, traffic = Server(asked, loaded), Traffic(asked, loaded)
    server.engine.set_drafter(_drafter("baseline", loaded), "baseline")
    made = []
    for domain in options.order:
        requests = traffic.requests(Phase("sharp", (domain,), options.requests + options.held_out))
        found = (server.answer(request).served for request in requests)
        records = [
            served.record for served in found if served is not None and len(served.record.output_ids) > 1
        ]
        made.append(Answers(records[: -options.held_out], records[-options.held_out :]))
    return made


def learn(options: MixOptions, loaded: LoadedTarget, mix: Mix, seed: int, made: Sequence[Answers]) -> Outcome:
    """One run from the embedded narrow drafter. Depends on nothing but its arguments."""
    config = LearnerConfig(seed=seed, reservoirs=mix.within(options.rooms))
    start = _drafter("narrow", loaded)
    student, rate = Student(loaded.target, config), LearningRate(config.rate)
    student.follow("narrow", start)
    reservoirs = Reservoirs(config.reservoirs)

    def study(records: Iterable[Interaction]) -> None:
        for record in records:
            reservoirs.add(record)
            student.rate = rate.factor
            drawn = reservoirs.sample(options.records, random.Random(f"{seed}:{student.steps}"))
            if drawn:
                rate.note(student.slice(drawn).loss)

    def tau(drafter: Drafter, of: Answers) -> float:
        return mean_accepted_length(replayed_tau(drafter, loaded.target, of.held_out, _NODES))

    first, second = made
    study(first.stream)
    learnt = tau(student.candidate(), first)
    coming = iter(second.stream)
    study(islice(coming, len(second.stream) // 2))
    half_way = tau(student.candidate(), second)
    study(coming)
    last = student.candidate()
    return Outcome(
        mix,
        seed,
        (tau(start, first), learnt, tau(last, first)),
        (tau(start, second), half_way, tau(last, second)),
    )


def _drafter(name: str, loaded: LoadedTarget) -> Drafter:
    return load_drafter(_DRAFTERS / name, loaded.target, loaded.fingerprint)
