"""One sequence of an API call as it grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from online_draft.core import (
    FinishReason,
    GenerationRequest,
    SpeculationCounts,
    StepOutput,
    TokenLogprobs,
)
from online_draft.serve.api.vocabulary import Offsets, Vocabulary


@dataclass(slots=True)
class Choice:
    """`request` is what was asked, `echo` the prompt's text if it is to be repeated; the rest came back.

    With `only_prompt` the one token that the engine has to generate is left out.
    """

    request: GenerationRequest
    echo: str | None = None
    only_prompt: bool = False
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    step_lengths: list[int] = field(default_factory=list)
    drafts: list[tuple[int, int]] = field(default_factory=list)
    """Nodes drafted and accepted, of each step that had a draft."""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    finish_reason: FinishReason | None = None
    counts: SpeculationCounts = field(default_factory=SpeculationCounts)
    drafter_version: str | None = None
    echoed: bool = False
    """Whether a stream has repeated the prompt already."""
    offsets: Offsets | None = None
    """Where a stream's next token begins."""

    def take(self, output: StepOutput) -> StepOutput:
        """Add one step; returns what of it is for the client."""
        if self.only_prompt:
            output = replace(output, token_ids=(), text="", logprobs=None, finish_reason="length")
        self.text += output.text
        self.token_ids += output.token_ids
        if output.token_ids:
            self.step_lengths.append(len(output.token_ids))
        if output.draft is not None:
            self.drafts.append(output.draft)
        self.logprobs += output.logprobs or ()
        self.prompt_logprobs = output.prompt_logprobs or self.prompt_logprobs
        self.finish_reason = output.finish_reason
        self.counts = output.counts or self.counts
        self.drafter_version = output.drafter_version or self.drafter_version
        return output

    def stop_reason(self, vocabulary: Vocabulary) -> int | str | None:
        """vLLM's: the token id or the string of the request at which it stopped; None for the end of text."""
        sampling = self.request.sampling
        if self.finish_reason != "stop" or not self.token_ids:
            return None
        if self.token_ids[-1] in sampling.stop_token_ids:
            return self.token_ids[-1]
        if sampling.stop:
            cut = vocabulary.decode(self.token_ids)[len(self.text) :]
            return next((stop for stop in sampling.stop if cut.startswith(stop)), None)
        return None

    def speculation(self, index: int) -> dict[str, Any]:
        """Counts of this choice for the `metrics` extra."""
        counts = self.counts
        return {
            "index": index,
            "drafter_version": self.drafter_version,
            "steps": counts.steps,
            "committed": counts.committed,
            "drafted": counts.drafted,
            "tried": list(counts.tried),
            "accepted": list(counts.accepted),
            "mean_acceptance_length": counts.committed / max(1, counts.steps),
            "step_lengths": self.step_lengths,
        }


def speculation_metrics(choices: Sequence[Choice], seed: int) -> dict[str, Any]:
    """`metrics.speculative_decoding`: vLLM's totals over all choices, and ours of each.

    A step counts here when it had something to verify; entry j of the histogram counts those in which j
    drafted tokens were accepted. Lists by step are of a single choice, else null, as in vLLM.
    """
    total = SpeculationCounts()
    for choice in choices:
        total.add(choice.counts)
    reached = [total.tried[0] if total.tried else 0, *total.accepted]
    steps, accepted = reached[0], total.accepted_tokens
    drafts = choices[0].drafts if len(choices) == 1 else None
    return {
        "speculative_decoding": {
            "mean_acceptance_length": 1 + accepted / max(1, steps),
            "draft_acceptance_rate": accepted / max(1, total.drafted),
            "acceptance_histogram": [
                here - further for here, further in zip(reached, [*reached[1:], 0], strict=True)
            ],
            "num_spec_steps": steps,
            "num_accepted_draft_tokens": accepted,
            "num_draft_tokens": total.drafted,
            "num_spec_tokens": len(total.tried),
            "per_step_drafted": [drafted for drafted, _ in drafts] if drafts is not None else None,
            "per_step_accepted": [accepted for _, accepted in drafts] if drafts is not None else None,
            "seed": seed,
            "choices": [choice.speculation(index) for index, choice in enumerate(choices)],
        }
    }
