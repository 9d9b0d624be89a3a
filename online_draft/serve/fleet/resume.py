"""One request until it is done, on as many replicas as that takes."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

from online_draft.core import TARGET_UPDATED, GenerationRequest, SpeculationCounts, StepOutput
from online_draft.errors import CapacityError, EngineDead
from online_draft.serve.fleet.fleet import Fleet
from online_draft.serve.fleet.link import ReplicaLost
from online_draft.serve.fleet.messages import Order

logger = logging.getLogger(__name__)

MOST_LOSSES = 3
"""Replicas that one request may lose; more would be its own doing."""
MOST_FAILURES = 1
"""Failed engines that one request is taken to another engine from."""
PAUSE_S = 0.25


class Progress:
    """What the client has of a request. The seed and these tokens fix how it goes on, wherever that is."""

    def __init__(self, request: GenerationRequest, clock: Callable[[], float] = time.monotonic) -> None:
        self.request = request
        self._clock = clock
        self._began = clock()
        self._attempt = 0
        self._tokens: list[int] = []
        self._lengths: list[int] = []
        self._lost = SpeculationCounts()
        self._has_prompt_logprobs = False
        self.target = ""
        """Whose answer this is, once it has begun."""
        self.accepted = False
        """Whether a replica had it already: from then on it must be finished."""

    def order(self, live: bool) -> Order:
        """What is to be asked of the next replica; another name each time."""
        request = self.request
        if self._attempt:
            sampling = request.sampling
            if self._has_prompt_logprobs:
                sampling = replace(sampling, prompt_logprobs=None)
            request = replace(
                request,
                request_id=f"{request.request_id}~{self._attempt}",
                emitted=(*request.emitted, *self._tokens),
                sampling=sampling,
                deadline_s=self._left(),
            )
        self._attempt += 1
        return Order(request, tuple(self._lengths), live)

    def take(self, output: StepOutput) -> StepOutput:
        """Add a step; returns what of it is for the client."""
        if output.token_ids:
            self._tokens += output.token_ids
            self._lengths.append(len(output.token_ids))
        self._has_prompt_logprobs |= output.prompt_logprobs is not None
        if self._attempt == 1:
            return output
        output = replace(output, request_id=self.request.request_id)
        if output.counts is None or not self._lost.steps:
            return output
        counts = SpeculationCounts()
        counts.add(self._lost)
        counts.add(output.counts)
        return replace(output, counts=counts, by_version=())

    def check(self, target: str) -> None:
        """ReplicaLost when a replica with this target can't go on, since the answer was begun by another."""
        if self.target and target and target != self.target:
            raise ReplicaLost(TARGET_UPDATED)

    def interrupted(self) -> None:
        """The replica's own counts are gone: count what its steps showed, each draft as if none was wrong."""
        self.accepted = True
        self._lost = SpeculationCounts()
        for length in self._lengths:
            self._lost.record(length, length - 1, length - 1, length - 1)

    def expired(self) -> StepOutput | None:
        """The last output of a request whose deadline passed between two replicas."""
        if self.request.deadline_s is None or self._left() or not self._attempt:
            return None
        name = self.request.request_id
        return StepOutput(name, (), "", "abort", self._lost, error="deadline exceeded")

    def _left(self) -> float | None:
        deadline = self.request.deadline_s
        return None if deadline is None else max(0.0, deadline - (self._clock() - self._began))


async def run(fleet: Fleet, request: GenerationRequest, live: bool) -> AsyncGenerator[StepOutput, None]:
    """Its outputs from beginning to end, whatever happens to replicas; closing it cancels the request.

    RequestError, or CapacityError when no replica has room; ReplicaLost when it can't be finished.
    """
    progress = Progress(request)
    avoid: set[str] = set()
    losses = failures = 0
    until: float | None = None
    while True:
        late = progress.expired()
        if late is not None:
            yield late
            return
        link = await fleet.pick(request, avoid, must=progress.accepted)
        progress.check(link.load.target)
        order = progress.order(live)
        name = order.request.request_id
        try:
            inbox = link.send(order)
            while True:
                item = await inbox.get()
                if isinstance(item, Exception):
                    raise item
                if item.finish_reason == "error" and failures < MOST_FAILURES:
                    failures += 1
                    logger.warning("request %s goes on elsewhere: %s", request.request_id, item.error)
                    break
                if item.token_ids:
                    progress.target = progress.target or link.load.target
                yield progress.take(item)
                if item.finish_reason is not None:
                    return
        except CapacityError:
            avoid.add(link.name)
            if all(other.name in avoid for other in fleet.open):
                until = until or time.monotonic() + (fleet.patience_s if progress.accepted else 0.0)
                if time.monotonic() >= until:
                    raise
                avoid.clear()
                await fleet.change(PAUSE_S)
            continue
        except (ReplicaLost, EngineDead) as error:
            losses += not (isinstance(error, ReplicaLost) and error.moved)
            if losses > MOST_LOSSES:
                raise
            logger.warning("request %s goes on elsewhere: %s", request.request_id, error)
            dead = isinstance(error, EngineDead)
        else:
            dead = False
        finally:
            link.cancel(name)
        progress.interrupted()
        # A dead engine's replica will be replaced; a rebuilt engine will do where there is no other.
        avoid = {link.name} if dead or len(fleet.open) > 1 else set()
