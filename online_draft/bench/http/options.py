"""What `bench http` is asked to do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from online_draft.errors import ConfigError


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Options of `bench http`.

    `batch` requests are under way at a time, `requests` make one run, `repeat` runs over HTTP alternate with
    as many of the engine alone. `cores` are those that everything is pinned to, in both; None: all that this
    process may use. `first_tokens` are the pairs of requests that the time to the first token is taken of.
    """

    target: str = "embedded"
    drafter: str | None = None
    prompts: Path | None = None
    batch: int = 8
    requests: int = 48
    max_new_tokens: int = 128
    temperature: float = 0.0
    first_tokens: int = 60
    repeat: int = 5
    threads: int = 1
    cores: tuple[int, ...] | None = None
    speculation: Literal["auto", "always", "off"] = "auto"
    kernels: Literal["wait", "off"] = "wait"
    json_path: Path | None = None

    def check(self) -> None:
        """Raise ConfigError, naming the option, for what can't be measured."""
        for name in ("batch", "requests", "max_new_tokens", "first_tokens", "repeat", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(name.replace("_", "-"), f"must be at least 1, got {getattr(self, name)}")
        if self.temperature < 0:
            raise ConfigError("temperature", f"must not be negative, got {self.temperature}")
        for name, accepted in (("speculation", ("auto", "always", "off")), ("kernels", ("wait", "off"))):
            if getattr(self, name) not in accepted:
                raise ConfigError(name, f"accepted are {', '.join(accepted)}; got {getattr(self, name)}")
        ours = os.sched_getaffinity(0)
        if self.cores is not None and not (self.cores and set(self.cores) <= ours):
            raise ConfigError("cores", f"must be some of {sorted(ours)}, got {list(self.cores)}")
