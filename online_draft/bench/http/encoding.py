"""What it costs to write one event of a stream."""

from __future__ import annotations

import time

from online_draft.core import StepOutput
from online_draft.serve.api.answers import envelope, step_chunk
from online_draft.serve.api.jobs import ANYONE, Labels, plan_completion
from online_draft.serve.api.prompts import PromptEncoder, tokenizer_directory
from online_draft.serve.api.schemas import CompletionBody
from online_draft.serve.api.streams import event

_EVENTS = 5_000
_ROUNDS = 3


def encoding_us(target: str) -> float:
    """Microseconds of one event, best of three rounds."""
    body = CompletionBody(model="m", prompt=["x"], stream=True)
    job = plan_completion(body, PromptEncoder(tokenizer_directory(target)), Labels(), ANYONE)
    head = envelope(job, "m", "f", chunk=True)
    output = StepOutput("r", (1, 2, 3), " some words of text")
    best = float("inf")
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        for _ in range(_EVENTS):
            event(step_chunk(job, head, 0, output))
        best = min(best, time.perf_counter() - begun)
    return 1e6 * best / _EVENTS
