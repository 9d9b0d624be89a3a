"""What `bench step` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from online_draft.bench.step.shapes import SHAPES
from online_draft.errors import ConfigError

REPORTED_ROWS = 16
"""The step whose shares the report names; the widest one where it was not measured."""


@dataclass(frozen=True, slots=True)
class StepOptions:
    """Options of `bench step`.

    `rows` are rows per sequence (the root and its nodes), `batch` sequences, `context` the tokens before the
    root when measuring begins, `steps` how many are timed per repeat. `random_init` names a shape that is
    filled with random weights, `layers` cuts it down.
    """

    target: str = "embedded"
    drafter: Path | None = None
    random_init: str | None = None
    layers: int | None = None
    rows: tuple[int, ...] = (8, 16, 32)
    batch: tuple[int, ...] = (1,)
    context: int = 200
    steps: int = 10
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    repeat: int = 5
    kernels: Literal["wait", "off"] = "wait"
    json_path: Path | None = None

    @property
    def reported_rows(self) -> int:
        """The rows of the step that shares are reported for."""
        return REPORTED_ROWS if REPORTED_ROWS in self.rows else max(self.rows)

    def check(self) -> None:
        """Raise ConfigError, naming the option, for what can't be measured."""
        for name in ("context", "steps", "repeat"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be at least 1, got {getattr(self, name)}")
        if not self.rows or min(self.rows) < 2:
            raise ConfigError("rows", "must be numbers of at least 2 (a root and a node), such as 8,16,32")
        if not self.batch or min(self.batch) < 1:
            raise ConfigError("batch", "must be numbers of at least 1, such as 1,8")
        for name in ("rows", "batch"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ConfigError(name, "a number is named twice")
        if self.kernels not in ("wait", "off"):
            raise ConfigError("kernels", f"accepted are wait, off; got {self.kernels}")
        if self.random_init is None:
            if self.layers is not None:
                raise ConfigError("layers", "needs --random-init: a loaded target keeps its layers")
            if self.drafter is None and self.target != "embedded":
                raise ConfigError("drafter", "name the drafter to measure: --drafter DIR")
            return
        if self.random_init not in SHAPES:
            named = f"accepted are {', '.join(SHAPES)}; got {self.random_init}"
            raise ConfigError("random-init", named)
        if self.target != "embedded":
            raise ConfigError("target", "leave it out with --random-init")
        if self.drafter is not None:
            raise ConfigError("drafter", "leave it out with --random-init: an untrained one is made")
        if self.layers is not None and not 1 <= self.layers <= SHAPES[self.random_init].num_layers:
            most = SHAPES[self.random_init].num_layers
            raise ConfigError("layers", f"must be from 1 to {most} for {self.random_init}, got {self.layers}")
