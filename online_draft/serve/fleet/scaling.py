"""How many processes serve, and how they come and go. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from online_draft.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ScalingConfig:
    """`ingresses` processes speak HTTP. With `max_ingresses` above that, Ray Serve adds one for every
    `streams_per_ingress` requests at a time; with `max_replicas` above `replicas` it keeps the replicas'
    pressure (requests over slots, or the share of KV blocks in use) at `target_pressure`. Either way more
    come after `upscale_delay_s`, fewer after `downscale_delay_s`.

    A replica or ingress that is to end finishes what it has for `drain_s`; what is left on a replica then
    goes on elsewhere. A request waits for a replica up to `resume_s` when there is none. Replicas fetch a new
    version within `fetch_spread_s` of hearing of it, not all at once.
    """

    ingresses: int = 1
    max_ingresses: int | None = None
    max_replicas: int | None = None
    target_pressure: float = 0.8
    streams_per_ingress: int = 64
    upscale_delay_s: float = 10.0
    downscale_delay_s: float = 300.0
    drain_s: float = 10.0
    resume_s: float = 60.0
    fetch_spread_s: float = 0.5

    def __post_init__(self) -> None:
        for name in ("ingresses", "streams_per_ingress"):
            if getattr(self, name) < 1:
                raise ConfigError(f"scaling.{name}", f"must be at least 1, got {getattr(self, name)}")
        if self.max_ingresses is not None and self.max_ingresses < self.ingresses:
            raise ConfigError(
                "scaling.max_ingresses", f"must be at least {self.ingresses}, got {self.max_ingresses}"
            )
        if self.max_replicas is not None and self.max_replicas < 1:
            raise ConfigError("scaling.max_replicas", f"must be at least 1, got {self.max_replicas}")
        if not 0 < self.target_pressure <= 10:
            raise ConfigError(
                "scaling.target_pressure", f"must be above 0, at most 10, got {self.target_pressure}"
            )
        for name in ("upscale_delay_s", "downscale_delay_s", "drain_s", "resume_s", "fetch_spread_s"):
            if not 0 <= getattr(self, name) <= 3600:
                raise ConfigError(
                    f"scaling.{name}", f"must be from 0 to 3600 seconds, got {getattr(self, name)}"
                )
