"""What a replica gave one request so far."""

from __future__ import annotations

import time

from online_draft.core import GenerationRequest, StepOutput


class Transcript:
    """Tokens and step lengths of a request, those included that another replica had given before."""

    __slots__ = ("lengths", "request", "started", "tokens")

    def __init__(self, request: GenerationRequest, lengths: tuple[int, ...] = ()) -> None:
        self.request = request
        self.started = time.monotonic()
        self.tokens = list(request.emitted)
        self.lengths = list(lengths)

    @property
    def begins(self) -> bool:
        """Whether this replica has given nothing yet."""
        return len(self.tokens) == len(self.request.emitted)

    def add(self, output: StepOutput) -> None:
        """Add a step."""
        if output.token_ids:
            self.tokens += output.token_ids
            self.lengths.append(len(output.token_ids))
