"""The seam between the API and whatever generates: four methods, so that a test fakes it with functions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from online_draft.core import GenerationRequest, StepOutput


class Backend(Protocol):
    """Something that generates: a Ray Serve handle in the service, plain functions in a test.

    `generate` yields one `StepOutput` per engine step; the last one has `finish_reason`. It raises
    `RequestError` or `CapacityError` before the first item; closing the iterator cancels the
    sequence. Anything else it raises is a failure of the service.
    """

    def generate(self, request: GenerationRequest) -> AsyncIterator[StepOutput]:
        """Generate one sequence."""
        ...

    async def complete(self, request: GenerationRequest) -> list[StepOutput]:
        """All that `generate` would have yielded, at once and cheaper. Cancelling it cancels the sequence."""
        ...

    async def update_target(self, path: str, actor: str, reason: str, drain_s: float) -> dict[str, Any]:
        """Have replicas take the weights in `path`: `decision`, or why not (`refused`, `field`, `kind`)."""
        ...

    async def status(self) -> dict[str, Any]:
        """A replica's state (`ready`, `drafter_version`, `running`, …); raises when it is dead."""
        ...
