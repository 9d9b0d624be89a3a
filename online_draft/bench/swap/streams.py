"""A steady load: so many requests are under way, and every step is timed."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from online_draft.bench.load.clients import Clock
from online_draft.core import GenerationRequest
from online_draft.decoding.engine import Engine


@dataclass(frozen=True, slots=True)
class Step:
    """One engine step: its time in seconds, and the tokens that it committed of how many sequences (prompts
    apart). `steady`: every stream decoded, and no prompt was taken in."""

    seconds: float
    tokens: int
    sequences: int
    steady: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request. `version` drafted for it, None if several did or nothing; `steps`: tokens by
    number of the step (see `Streams.steps`), the prompt's apart."""

    request: GenerationRequest
    token_ids: list[int]
    version: str | None = None
    steps: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Stream:
    request: GenerationRequest
    token_ids: list[int] = field(default_factory=list)
    steps: dict[int, int] = field(default_factory=dict)


class Streams:
    """A closed loop of `count` clients on one engine: the next request enters when one has ended. Request ids
    must be distinct. `answers` are those of requests that ended well, `failed` counts the others."""

    def __init__(
        self,
        engine: Engine,
        requests: Iterable[GenerationRequest],
        count: int,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.answers: list[Answer] = []
        self.failed = 0
        self.steps = 0
        """How many there were."""
        self._engine = engine
        self._requests = iter(requests)
        self._count = count
        self._clock = clock
        self._ended = False
        self._running: dict[str, _Stream] = {}

    @property
    def steady(self) -> bool:
        """Whether the next step is."""
        return len(self._running) == self._count and all(s.token_ids for s in self._running.values())

    def step(self) -> Step:
        """Let requests enter, and run a step."""
        self._enter()
        steady = self.steady
        began = self._clock()
        outputs = self._engine.step()
        seconds = self._clock() - began
        tokens = sequences = 0
        for output in outputs:
            stream = self._running[output.request_id]
            if output.token_ids and stream.token_ids:
                tokens += len(output.token_ids)
                sequences += 1
                stream.steps[self.steps] = len(output.token_ids)
            stream.token_ids += output.token_ids
            if output.finish_reason is not None:
                del self._running[output.request_id]
                if output.finish_reason in ("stop", "length"):
                    version = None if output.by_version else output.drafter_version
                    self.answers.append(Answer(stream.request, stream.token_ids, version, stream.steps))
                else:
                    self.failed += 1
        self.steps += 1
        return Step(seconds, tokens, sequences, steady)

    def finish(self, no_more: bool) -> list[Step]:
        """Step until nothing is under way; with `no_more` no request enters meanwhile."""
        self._ended |= no_more
        steps = []
        self._enter()
        while self._running:
            steps.append(self.step())
            self._enter()
        return steps

    def _enter(self) -> None:
        while not self._ended and len(self._running) < self._count:
            request = next(self._requests, None)
            if request is None:
                self._ended = True
                return
            self._engine.add(request)
            self._running[request.request_id] = _Stream(request)
