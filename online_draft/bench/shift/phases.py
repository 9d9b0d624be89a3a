"""The traffic: which domain asks when, and what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random

from online_draft.bench.demo.traffic import Ask
from online_draft.bench.shift.options import PhaseKind, ShiftOptions
from online_draft.core import GenerationRequest, SamplingParams
from online_draft.models.embedded.domains import Example, examples
from online_draft.models.loading import LoadedTarget
from online_draft.training.distillation.prompts import Conversation


@dataclass(frozen=True, slots=True)
class Phase:
    """`requests` of one domain or, where traffic moves from one to another, of both."""

    kind: PhaseKind
    domains: tuple[str, ...]
    requests: int

    @property
    def segment(self) -> str:
        """The domain, or `from>to`."""
        return ">".join(self.domains)

    def schedule(self, rng: Random) -> Iterator[str]:
        """The domain of each request; between two the second one's share rises evenly from 0 to 1."""
        for number in range(self.requests):
            yield self.domains[-1] if rng.random() < (number + 0.5) / self.requests else self.domains[0]


def plan(options: ShiftOptions) -> list[Phase]:
    """All phases in order."""
    order, requests = options.order, options.requests_per_segment
    first, second, last = order[0], order[1], order[-1]
    phases: dict[str, list[Phase]] = {
        "sharp": [Phase("sharp", (domain,), requests) for domain in order],
        "gradual": [Phase("gradual", (last, first), requests)],
        "return": [Phase("return", (domain,), requests) for domain in (first, second, first)],
    }
    return [phase for kind, found in phases.items() if kind in options.kinds for phase in found]


class Traffic:
    """Requests with prompts that the target was never trained on, none twice. Fixed by the options."""

    def __init__(self, options: ShiftOptions, loaded: LoadedTarget) -> None:
        self._options = options
        self._tokenizer = loaded.tokenizer
        self._rng = Random(f"shift:{options.seed}")
        self._numbers = count()
        self._prompts: dict[str, Iterator[Example]] = {
            domain: examples(domain, options.seed, split="heldout") for domain in options.order
        }

    def asks(self, phase: Phase) -> Iterator[Ask]:
        """One phase's, as a client would send them."""
        options = self._options
        for domain in phase.schedule(self._rng):
            seed = (options.seed << 32) + next(self._numbers)
            prompt = next(self._prompts[domain]).prompt
            yield Ask(domain, prompt, seed, options.temperature, options.max_new_tokens)

    def requests(self, phase: Phase) -> Iterator[GenerationRequest]:
        """The same as an engine takes them; `segment` is the domain."""
        for ask in self.asks(phase):
            sampling = SamplingParams(temperature=ask.temperature, max_tokens=ask.max_tokens, seed=ask.seed)
            ids = Conversation(({"role": "user", "content": ask.prompt},)).token_ids(self._tokenizer)
            number = ask.seed - (self._options.seed << 32)
            yield GenerationRequest(f"r{number}", ids, sampling, segment=ask.domain)
