"""What `bench shift` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from online_draft.bench.shift.mix import Mix
from online_draft.errors import ConfigError
from online_draft.models.embedded.domains import DOMAINS

PhaseKind = Literal["sharp", "gradual", "return"]
KINDS: tuple[PhaseKind, ...] = get_args(PhaseKind)
TRAIN = "train"
"""The value of `--ceiling` that has ceilings trained in the run."""


@dataclass(frozen=True, slots=True)
class ShiftOptions:
    """Options of `bench shift`.

    The traffic goes through the domains of `order`, `requests_per_segment` each, then in mixed shares back to
    the first, then from the first to the second and back; `kinds` are the parts wanted. In the simulation the
    learner does `slices` pieces of work after each request (an update on `slice_records` records, drawn as
    `mix` says, or a part of a look), and on the ladder's clock requests come `rate` a second. Otherwise a
    system is started, which learns by itself, and requests come in bursts of `burst`, `rate` a second as far
    as it keeps up. Windows are of `window` requests.
    Every so many requests (`check_every`; 0: none) one is answered again by plain decoding.

    `ceilings` are drafters to replay beside the static one, by domain; with `train_ceilings` those missing
    are trained in `ceiling_steps` updates on `ceiling_answers` answers, from the starting drafter.
    """

    simulate: bool = False
    drafter: Path | None = None
    order: tuple[str, ...] = DOMAINS
    requests_per_segment: int = 600
    kinds: tuple[str, ...] = KINDS
    window: int = 50
    slices: int = 2
    slice_records: int = 8
    mix: Mix | None = None
    rate: float = 1.0
    burst: int = 6
    max_new_tokens: int = 96
    temperature: float = 0.6
    tree_nodes: int = 16
    check_every: int = 10
    ceilings: tuple[tuple[str, Path], ...] = ()
    train_ceilings: bool = False
    ceiling_steps: int = 500
    ceiling_answers: int = 500
    seed: int = 0
    threads: int | None = None
    kernels: Literal["wait", "off"] = "wait"
    json_path: Path | None = None

    @property
    def ceilings_asked(self) -> bool:
        """Whether anything is replayed beside the static drafter."""
        return bool(self.ceilings) or self.train_ceilings

    def check(self) -> None:
        """Raise ConfigError, naming the option, for what can't be measured."""
        self._check_traffic()
        for name in ("slice_records", "burst", "tree_nodes", "ceiling_steps", "ceiling_answers"):
            if getattr(self, name) < 1:
                raise ConfigError(name.replace("_", "-"), f"must be at least 1, got {getattr(self, name)}")
        for name in ("slices", "check_every", "temperature"):
            if not getattr(self, name) >= 0:
                raise ConfigError(name.replace("_", "-"), f"must not be negative, got {getattr(self, name)}")
        if self.max_new_tokens < 2:
            raise ConfigError("max-new-tokens", f"must be at least 2, got {self.max_new_tokens}")
        if self.mix is not None and not self.simulate:
            raise ConfigError("mix", "is of the simulation: set simulate, too, or settings of the service")
        if not 0 < self.rate < float("inf"):
            raise ConfigError("rate", f"must be positive, got {self.rate}")
        if self.kernels not in ("wait", "off"):
            raise ConfigError("kernels", f"accepted are wait, off; got {self.kernels}")
        strange = [domain for domain, _ in self.ceilings if domain not in self.order]
        if strange:
            accepted = ", ".join(self.order)
            raise ConfigError(
                "ceiling", f"accepted are {TRAIN} and DOMAIN=DIR of {accepted}; got {strange[0]}"
            )

    def _check_traffic(self) -> None:
        if (
            len(self.order) < 2
            or len(set(self.order)) < len(self.order)
            or not set(self.order) <= set(DOMAINS)
        ):
            given = ",".join(self.order)
            raise ConfigError(
                "order", f"must be two or more different ones of {', '.join(DOMAINS)}; got {given}"
            )
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise ConfigError("phases", f"accepted are {', '.join(KINDS)}; got {','.join(self.kinds)}")
        if self.window < 1:
            raise ConfigError("window", f"must be at least 1, got {self.window}")
        requests = self.requests_per_segment
        if requests < 2 * self.window or requests % self.window:
            raise ConfigError(
                "requests-per-segment",
                f"must be a multiple of the window, {self.window}, and at least two of it; got {requests}",
            )
