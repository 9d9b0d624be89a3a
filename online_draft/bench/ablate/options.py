"""What `bench ablate` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from online_draft.bench.ablate.variants import NAMES, PRESETS
from online_draft.errors import ConfigError


@dataclass(frozen=True, slots=True)
class AblateOptions:
    """Options of `bench ablate`. `variants` None: the preset's; `prompts` None: the embedded target's own.

    Every variant is trained `steps` micro-batches of `batch` records, once for each of `seeds` seeds, on the
    answers to `answers` prompts, of which a tenth is held out. `workers` processes train with one thread
    each; speed is measured afterwards, alone, on `speed_prompts` held-out prompts with `threads` threads
    (`speed` "skip": not at all, "again": also of rows that were measured). What is finished lies in `work`
    (default: beside the JSON) and is not made again.
    """

    target: str = "embedded"
    variants: tuple[str, ...] | None = None
    preset: Literal["quick", "full"] = "full"
    seeds: int = 3
    steps: int = 160
    batch: int = 8
    prompts: Path | None = None
    answers: int = 640
    max_new_tokens: int = 96
    tree_nodes: int = 16
    workers: int = 1
    speed: Literal["missing", "again", "skip"] = "missing"
    speed_prompts: int = 8
    repeat: int = 2
    threads: int = 1
    kernels: Literal["wait", "off"] = "wait"
    max_hours: float | None = None
    json_path: Path | None = None
    work: Path | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The variants to measure, in the order of the table."""
        chosen = PRESETS[self.preset] if self.variants is None else self.variants
        return tuple(name for name in NAMES if name in chosen)

    @property
    def work_directory(self) -> Path:
        """Where answers, drafters and finished rows lie."""
        if self.work is not None:
            return self.work
        assert self.json_path is not None
        return self.json_path.with_name(self.json_path.name + ".work")

    def check(self) -> None:
        """Raise ConfigError, naming the option, for what can't be measured."""
        if self.json_path is None and self.work is None:
            raise ConfigError("json", "name the report, or --work for a directory to keep rows in")
        if self.preset not in PRESETS:
            raise ConfigError("preset", f"accepted are {', '.join(PRESETS)}; got {self.preset}")
        if self.variants is not None:
            unknown = [name for name in self.variants if name not in NAMES]
            if unknown or not self.variants:
                named = ", ".join(unknown) or "none"
                raise ConfigError("variants", f"accepted are {', '.join(NAMES)}; got {named}")
        for name in (
            "seeds",
            "steps",
            "batch",
            "tree_nodes",
            "workers",
            "speed_prompts",
            "repeat",
            "threads",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(name.replace("_", "-"), f"must be at least 1, got {getattr(self, name)}")
        for name, least in (("answers", 20), ("max_new_tokens", 2)):
            if getattr(self, name) < least:
                raise ConfigError(
                    name.replace("_", "-"), f"must be at least {least}, got {getattr(self, name)}"
                )
        for name, accepted in (("kernels", ("wait", "off")), ("speed", ("missing", "again", "skip"))):
            if getattr(self, name) not in accepted:
                raise ConfigError(name, f"accepted are {', '.join(accepted)}; got {getattr(self, name)}")
        if self.max_hours is not None and self.max_hours <= 0:
            raise ConfigError("max-hours", f"must be positive, got {self.max_hours}")
        if self.prompts is None and self.target != "embedded":
            raise ConfigError("prompts", f"name a prompt file for {self.target}")
