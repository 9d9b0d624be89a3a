"""Virtual clients: they send requests to an engine and note when each output came."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from online_draft.bench.load.work import Work
from online_draft.core import SpeculationCounts, StepOutput
from online_draft.decoding.engine import Engine

Clock = Callable[[], float]


@dataclass(slots=True)
class Stream:
    """One request as its client sees it. Times are the clock's seconds."""

    since: float
    first: float | None = None
    last: float = 0.0
    tokens: int = 0


@dataclass(slots=True)
class LoadRun:
    """What one run of clients saw. Durations in seconds.

    `ttft` is the time to a request's first output (in an open loop from its arrival, queueing included).
    `itl` has one entry for each further output of a stream: the gap to the output before it, however many
    tokens it brings, as vLLM's serving benchmark counts. `tpot` is a request's time per token behind the
    first output's.
    """

    tokens: int = 0
    seconds: float = 0.0
    busy: float = 0.0
    failed: int = 0
    ttft: list[float] = field(default_factory=list)
    itl: list[float] = field(default_factory=list)
    tpot: list[float] = field(default_factory=list)
    counts: SpeculationCounts = field(default_factory=SpeculationCounts)
    answers: dict[str, list[int]] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float:
        """Throughput over the whole run, its last answers included."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def concurrency(self) -> float:
        """Mean number of requests that were under way."""
        return self.busy / self.seconds if self.seconds else 0.0

    def take(self, output: StepOutput, stream: Stream, now: float) -> None:
        """Count one output of a stream."""
        count = len(output.token_ids)
        if count:
            self.answers.setdefault(output.request_id, []).extend(output.token_ids)
            self.tokens += count
            if stream.first is None:
                stream.first = now
                self.ttft.append(now - stream.since)
            else:
                self.itl.append(now - stream.last)
                stream.tokens += count
            stream.last = now
        if output.finish_reason is not None:
            self.busy += now - stream.since
            self.failed += output.finish_reason in ("abort", "error")
            if output.counts is not None:
                self.counts.add(output.counts)
            if stream.first is not None and stream.tokens:
                self.tpot.append((stream.last - stream.first) / stream.tokens)


def drive(
    engine: Engine,
    work: Sequence[Work],
    clients: int | None = None,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> LoadRun:
    """Answer all of `work`, step by step, as a replica's engine thread does.

    With `clients` a closed loop: so many requests are under way, the next one enters when one has ended.
    Without, an open loop: each enters at its time of arrival. Request ids must be distinct.
    """
    run = LoadRun()
    pending = deque(work)
    streams: dict[str, Stream] = {}
    begin = clock()
    while pending or streams:
        now = clock()
        while pending and (begin + pending[0].at_s <= now if clients is None else len(streams) < clients):
            entering = pending.popleft()
            engine.add(entering.request)
            since = begin + entering.at_s if clients is None else now
            streams[entering.request.request_id] = Stream(since)
        if not streams:
            sleep(begin + pending[0].at_s - now)
            continue
        outputs = engine.step()
        now = clock()
        for output in outputs:
            run.take(output, streams[output.request_id], now)
            if output.finish_reason is not None:
                del streams[output.request_id]
    run.seconds = clock() - begin
    return run
