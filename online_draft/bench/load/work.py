"""The requests that `bench load` sends, made from a prompt file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import cycle, islice

from online_draft.bench.load.trace import Arrival
from online_draft.core import GenerationRequest, SamplingParams
from online_draft.errors import ConfigError
from online_draft.models.loading import LoadedTarget
from online_draft.training.distillation.prompts import Conversation


@dataclass(frozen=True, slots=True)
class Work:
    """A request and when it comes, in seconds after the start (in a closed loop when a client is free)."""

    request: GenerationRequest
    at_s: float = 0.0


class Prompts:
    """Token ids of a prompt file's conversations; those that leave no room for an answer are left out."""

    def __init__(self, conversations: Iterable[Conversation], loaded: LoadedTarget) -> None:
        self.context = loaded.config.max_position_embeddings
        tokens = (conversation.token_ids(loaded.tokenizer) for conversation in conversations)
        self._ids = [ids for ids in tokens if ids and len(ids) < self.context - 1]
        if not self._ids:
            raise ConfigError("prompts", f"no prompt fits the target's context of {self.context} tokens")

    def answering(self, count: int, max_new_tokens: int, temperature: float) -> list[Work]:
        """`count` requests that end as the target ends them, prompts taking turns."""
        return [
            self._work(index, ids, min(max_new_tokens, self.context - len(ids)), temperature, False)
            for index, ids in enumerate(islice(cycle(self._ids), count))
        ]

    def streaming(self, count: int, temperature: float) -> list[Work]:
        """`count` requests that go on until the context is full."""
        return [
            self._work(index, ids, self.context - len(ids), temperature, True)
            for index, ids in enumerate(islice(cycle(self._ids), count))
        ]

    def replaying(self, arrivals: Iterable[Arrival], speedup: float, temperature: float) -> list[Work]:
        """A trace's requests: lengths cut to the context (answers to half of it), ends ignored."""
        work = []
        for index, arrival in enumerate(arrivals):
            output = min(arrival.output_tokens, self.context // 2)
            prompt = min(arrival.prompt_tokens, self.context - output)
            made = self._work(index, self.text(index, prompt), output, temperature, True)
            work.append(replace(made, at_s=arrival.at_s / speedup))
        return work

    def text(self, index: int, length: int) -> tuple[int, ...]:
        """Exactly `length` tokens: the prompts from `index` on, one behind the other."""
        start = index % len(self._ids)
        chain = cycle((*self._ids[start:], *self._ids[:start]))
        return tuple(islice((token for ids in chain for token in ids), length))

    def _work(
        self, index: int, ids: tuple[int, ...], max_tokens: int, temperature: float, endless: bool
    ) -> Work:
        sampling = SamplingParams(
            temperature=temperature, max_tokens=max_tokens, ignore_eos=endless, seed=index
        )
        return Work(GenerationRequest(str(index), ids, sampling))


def apart(work: Iterable[Work], tenant: str, speculate: bool) -> list[Work]:
    """The same requests for another tenant: nothing computed before is a prefix hit."""
    return [replace(w, request=replace(w.request, tenant=tenant, speculate=speculate)) for w in work]


def shortened(work: Iterable[Work], max_tokens: int) -> list[Work]:
    """The same requests with shorter answers, all at once."""
    return [
        Work(replace(w.request, sampling=replace(w.request.sampling, max_tokens=limit)))
        for w in work
        for limit in (min(max_tokens, w.request.sampling.max_tokens),)
    ]
