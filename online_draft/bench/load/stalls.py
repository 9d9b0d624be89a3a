"""How long running streams wait while a long prompt is taken in."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from online_draft.bench.load.clients import Clock
from online_draft.bench.load.work import Work
from online_draft.bench.stats import percentile
from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.engine import Engine
from online_draft.errors import ConfigError

LONG_PROMPT = 1000
STREAMS = 4
ADMISSIONS = 5
QUIET_STEPS = 24
_ROOM = 8
"""Context behind the long prompt that must be left."""


@dataclass(slots=True)
class Stalls:
    """Gaps between two outputs of a stream in seconds: with nothing else going on, and during admissions."""

    quiet: list[float] = field(default_factory=list)
    admitting: list[float] = field(default_factory=list)
    admissions: int = 0

    @property
    def p99_ratio(self) -> float | None:
        """p99 during admissions over p99 without; None where one was not seen."""
        quiet, admitting = percentile(self.quiet, 99), percentile(self.admitting, 99)
        return None if not quiet or admitting is None else admitting / quiet


def check_room(context: int) -> None:
    """Raise ConfigError when the long prompt doesn't fit the target's context."""
    if context < LONG_PROMPT + _ROOM:
        raise ConfigError(
            "long-prompt",
            f"the target's context of {context} tokens is too short for a {LONG_PROMPT:,}-token prompt",
        )


def measure_stalls(
    engine: Engine,
    streams: Sequence[Work],
    long_prompts: Sequence[tuple[int, ...]],
    clock: Clock = time.perf_counter,
) -> Stalls:
    """Admit the long prompts one after the other beside the streams, with quiet steps before each.

    Ends early when a stream has reached its end, so that the number of streams stays the same. A gap counts
    as admitting when the prompt came in between its two outputs' steps.
    """
    found = Stalls()
    last: dict[str, float] = {}
    ended: set[str] = set()

    def step(gaps: list[float]) -> None:
        outputs = engine.step()
        now = clock()
        for output in outputs:
            if output.finish_reason is not None:
                ended.add(output.request_id)
            if output.token_ids and output.request_id in names:
                if output.request_id in last:
                    gaps.append(now - last[output.request_id])
                last[output.request_id] = now

    names = {work.request.request_id for work in streams}
    for work in streams:
        engine.add(work.request)
    while len(last) < len(names) and not ended & names:
        step([])
    tenant = streams[0].request.tenant
    for number, prompt in enumerate(long_prompts):
        for _ in range(QUIET_STEPS):
            if not ended & names:
                step(found.quiet)
        name, gaps = f"long {number}", list[float]()
        engine.add(GenerationRequest(name, prompt, SamplingParams(0.0, max_tokens=1), tenant=tenant))
        while name not in ended and not ended & names:
            step(gaps)
        if ended & names:
            engine.cancel(name)
            break
        found.admitting += gaps
        found.admissions += 1
    for work in streams:
        engine.cancel(work.request.request_id)
    return found
