"""The engine of the simulation: answers one request after the other, and says what remains of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain

from online_draft.bench.shift.options import ShiftOptions
from online_draft.bench.shift.tally import Served
from online_draft.buffer.records import record_of
from online_draft.core import GenerationRequest, StepOutput
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.errors import RequestError
from online_draft.models.loading import LoadedTarget
from online_draft.monitor.counts import PLAIN


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's end: `served` unless it failed; `version`, if one alone drafted for it."""

    request: GenerationRequest
    token_ids: tuple[int, ...]
    served: Served | None
    version: str | None


class Server:
    """Drafts with the heads alone, at every step and with all nodes: neither load nor the n-gram memory moves
    what is measured, and a replay counts alike."""

    def __init__(self, options: ShiftOptions, loaded: LoadedTarget) -> None:
        self.engine = Engine(loaded, _engine_config(options))
        self.failed: list[str] = []
        """Why requests failed."""
        self._target = loaded.fingerprint

    def answer(self, request: GenerationRequest) -> Answer:
        """Serve one request to its end."""
        began = self.engine.steps
        try:
            outputs = self._run(request)
        except RequestError as error:
            self.failed.append(f"{request.request_id}: {error}")
            return Answer(request, (), None, None)
        tokens = tuple(chain.from_iterable(output.token_ids for output in outputs))
        last = outputs[-1] if outputs else None
        if last is None or last.finish_reason not in ("stop", "length") or last.counts is None:
            why = "no output" if last is None else last.error or last.finish_reason or "no end"
            self.failed.append(f"{request.request_id}: {why} after {self.engine.steps - began} steps")
            return Answer(request, tokens, None, None)
        counts = last.counts
        record = record_of(
            request,
            self._target,
            tokens,
            [len(output.token_ids) for output in outputs if output.token_ids],
            counts.tried,
            counts.accepted,
            last.drafter_version or PLAIN,
        )
        served = Served(counts.steps, counts.committed, record.tried, record.accepted, record)
        return Answer(request, tokens, served, None if last.by_version else last.drafter_version)

    def plain(self, request: GenerationRequest) -> tuple[int, ...]:
        """The same request, without drafts and without a trace."""
        again = replace(request, request_id=f"{request.request_id}-plain", speculate=False, learn=False)
        return tuple(chain.from_iterable(output.token_ids for output in self._run(again)))

    def _run(self, request: GenerationRequest) -> list[StepOutput]:
        self.engine.add(request)
        outputs: list[StepOutput] = []
        while self.engine.has_work:
            outputs += self.engine.step()
        return outputs


def _engine_config(options: ShiftOptions) -> EngineConfig:
    return EngineConfig(
        max_sequences=1,
        tree_nodes=options.tree_nodes,
        speculation="always",
        ngram=False,
        # The plain copy of a request finds nothing that the first one left.
        prefix_cache=False,
        kernels=options.kernels,
        threads=options.threads,
    )
