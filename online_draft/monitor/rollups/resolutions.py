"""How finely traffic is counted, and for how long each fineness is kept."""

from __future__ import annotations

from dataclasses import dataclass

from online_draft.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Resolution:
    """Buckets of `seconds`, aligned to the Unix epoch, that can be read for `keep_s` after their end."""

    seconds: int
    keep_s: int

    def start(self, at_s: float) -> int:
        """Start of the bucket that holds a moment, both in Unix seconds."""
        return int(at_s // self.seconds) * self.seconds

    def expires(self, start_s: int) -> int:
        """When the bucket that starts at `start_s` is forgotten."""
        return start_s + self.seconds + self.keep_s


RESOLUTIONS = (
    Resolution(1, 15 * 60),
    Resolution(10, 3 * 3600),
    Resolution(60, 24 * 3600),
    Resolution(600, 7 * 86_400),
    Resolution(3600, 30 * 86_400),
)
"""Finest first. Together at most 5,148 buckets are alive."""


def resolution_of(seconds: int) -> Resolution:
    """The resolution with buckets of that length; ConfigError for another length."""
    for resolution in RESOLUTIONS:
        if resolution.seconds == seconds:
            return resolution
    accepted = ", ".join(str(resolution.seconds) for resolution in RESOLUTIONS)
    raise ConfigError("resolution", f"{seconds} is not one of {accepted} (seconds)")


def finest_since(start_s: float, now_s: float) -> Resolution:
    """The finest resolution that still knows `start_s`; the coarsest if none does."""
    for resolution in RESOLUTIONS:
        if now_s - start_s <= resolution.keep_s:
            return resolution
    return RESOLUTIONS[-1]
