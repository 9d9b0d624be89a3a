"""What the demo does by default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """Options of `online-draft demo`.

    Traffic is a closed loop: bursts of `burst` requests, `concurrency` at a time, and `pause_s` of silence
    after each, in which the learner works. The first domain gets `first_requests`, the second as many as it
    takes until a newly promoted version served the last `window` requests with a τ that is `margin` above
    that of the first `window`.
    """

    minutes: float = 8.0
    keep: bool = False
    json_path: Path | None = None
    port: int = 0
    target: str = "embedded"
    drafter: str = "narrow"
    state_dir: Path | None = None
    domains: tuple[str, str] = ("sql", "math")
    first_requests: int = 40
    burst: int = 6
    concurrency: int = 1
    pause_s: float = 2.5
    window: int = 24
    margin: float = 0.3
    temperature: float = 0.6
    max_tokens: int = 96
    twin_every: int = 2
    """Every so many bursts the same requests are sent again with speculation off."""
