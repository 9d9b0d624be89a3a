"""Trains draft heads in slices of one micro-batch, between which the learner can yield at any time.

Shapes: B records, T positions, A anchors, K heads, V vocabulary, U teacher rows, F hidden size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from online_draft.errors import ArtifactError
from online_draft.models.drafter import Drafter
from online_draft.models.target import Target
from online_draft.models.trimming import token_places
from online_draft.training.anchors import Anchors, sample_anchors
from online_draft.training.features import Features, Record, extract
from online_draft.training.leash import Leash
from online_draft.training.losses import depth_weights, row_losses
from online_draft.training.optimizer import build_optimizer, set_rate
from online_draft.training.outliers import inliers
from online_draft.training.packing import Packed, extract_packed, pack_anchors
from online_draft.training.trainer_config import TrainerConfig
from online_draft.training.trainer_state import read_state, write_state

__all__ = ["SliceMetrics", "Trainer", "TrainerConfig"]

_LOW_PRECISION = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class SliceMetrics:
    """What one slice did: `updated` is False when it was skipped (nothing to learn, or values not finite),
    and for all but the last slice of an update that takes several."""

    loss: float
    tokens: int
    grad_norm: float
    seconds: float
    updated: bool
    interrupted: bool = False
    """It was given up before it changed anything."""


class Trainer:
    """Owns the optimiser of one drafter. Not thread-safe; `slice` mutates the drafter in place.

    A drafter in half precision becomes float32 and computes under autocast in the target's type; `candidate`
    has the target's type again.
    """

    def __init__(
        self,
        drafter: Drafter,
        target: Target,
        config: TrainerConfig | None = None,
        all_parameters: bool = True,
    ) -> None:
        """Trains all parameters that the drafter names; else only those that require a gradient already."""
        self.drafter = drafter
        self.target = target
        self.config = config or TrainerConfig()
        self.steps = 0
        self.skipped = 0
        """Updates thrown away because loss or gradient was not finite."""
        self.slices = 0
        """Slices that had something to learn, updates or not."""
        if all_parameters:
            drafter.requires_grad_(True)
        drafter.train()
        self._mixed = target.dtype in _LOW_PRECISION
        if self._mixed:
            drafter.float()
        self._named = {name: p for name, p in drafter.named_parameters() if p.requires_grad}
        self._optimizer = build_optimizer(self._named, self.config)
        self._generator = torch.Generator().manual_seed(self.config.seed)
        self._weights_K = depth_weights(drafter.num_heads, self.config.depth_decay, target.device)
        self._ema = {name: p.detach().clone() for name, p in self._named.items()} if self.config.ema else {}
        self._place_V = token_places(drafter)
        self.leash = Leash(self._named, self.config.leash) if self.config.leash else None
        self.rate = 1.0
        """Multiplies the learning rate."""
        self.trimmed = 0
        """Anchors left out because of their losses."""
        self._mass = 0.0
        """Sum of the weights behind the gradients collected so far; nan if they must not be used."""

    def decay_by(self, steps: int) -> None:
        """Let the learning rate reach its floor at this step."""
        self.config = replace(self.config, decay_steps=steps)

    def slice(
        self, records: Sequence[Record], interrupted: Callable[[], bool] = lambda: False
    ) -> SliceMetrics:
        """One forward and backward on these records, and an update when it is time for one. Bad values leave
        all weights as they were. Given up when `interrupted()`, asked after prefill and forward, says so."""
        started = time.perf_counter()
        records = [record for record in records if len(record.output_ids) > 1]
        if not records:
            return SliceMetrics(math.nan, 0, math.nan, time.perf_counter() - started, updated=False)
        features = extract(self.target, records, self.config.max_tokens, self.drafter.feature_layers)
        if interrupted():
            return _given_up(started)
        anchors = sample_anchors(features, self.config.anchors, self.drafter.num_heads, self._generator)
        return self._learn(started, features, anchors, interrupted=interrupted)

    def slice_packed(
        self, rows: Sequence[Sequence[Record]], interrupted: Callable[[], bool] = lambda: False
    ) -> SliceMetrics:
        """As `slice` on all these records, those of a row packed into one row of the batch: equal, but with
        less padding."""
        started = time.perf_counter()
        kept = [[record for record in row if len(record.output_ids) > 1] for row in rows]
        kept = [row for row in kept if row]
        if not kept:
            return SliceMetrics(math.nan, 0, math.nan, time.perf_counter() - started, updated=False)
        packed = extract_packed(self.target, kept, self.config.max_tokens, self.drafter.feature_layers)
        if interrupted():
            return _given_up(started)
        heads = self.drafter.num_heads
        anchors = sample_anchors(packed.records, self.config.anchors, heads, self._generator)
        return self._learn(started, packed.rows, pack_anchors(anchors, packed), packed, interrupted)

    @torch.no_grad()
    def rewind(self) -> bool:
        """Go back to the average of the weights, with a fresh optimiser; False when that isn't finite either,
        or isn't kept: nothing has changed then."""
        if not self._ema or not all(bool(average.isfinite().all()) for average in self._ema.values()):
            return False
        self._set(self._ema)
        self._optimizer = build_optimizer(self._named, self.config)
        self._optimizer.zero_grad(set_to_none=True)
        return True

    @torch.no_grad()
    def candidate(self) -> Drafter:
        """A frozen copy of the drafter as it should be judged and published (EMA weights if kept)."""
        learnt = {name: self._named[name].detach().clone() for name in self._ema}
        self._set(self._ema)
        copy = self.drafter.clone()
        self._set(learnt)
        if self._mixed:
            copy.to(self.target.dtype)
        return copy.requires_grad_(False).eval()

    def save(self, path: str | Path, extra: dict[str, Any] | None = None) -> None:
        """Write `state` to one safetensors file, replaced at once, for `load`."""
        write_state(Path(path), *self.state(extra))

    def state(self, extra: dict[str, Any] | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Trained weights, optimiser and random state, which later slices change, and a head of plain JSON:
        counts, and `extra` for `load` to give back."""
        tensors = {f"weight.{name}": tensor.detach() for name, tensor in self._named.items()}
        tensors |= {f"ema.{name}": tensor for name, tensor in self._ema.items()}
        for name, parameter in self._named.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = value
            if parameter.grad is not None and self._part_done:
                tensors[f"grad.{name}"] = parameter.grad
        if self.drafter.draft_ids_V is not None:
            tensors["draft_ids_V"] = self.drafter.draft_ids_V
        tensors["random"] = self._generator.get_state()
        head = {
            "steps": self.steps,
            "skipped": self.skipped,
            "slices": self.slices,
            "mass": repr(self._mass),
            "config": asdict(self.config),
            "extra": extra or {},
        }
        return tensors, head

    def load(self, path: str | Path) -> dict[str, Any]:
        """Go on where `save` left off; gives its `extra`. ArtifactError when the file doesn't fit."""
        try:
            tensors, head = read_state(Path(path))
            with torch.no_grad():
                for name, parameter in self._named.items():
                    parameter.copy_(tensors[f"weight.{name}"])
                    if self._ema:
                        self._ema[name].copy_(tensors.get(f"ema.{name}", tensors[f"weight.{name}"]))
                    if f"step.{name}" in tensors:
                        self._optimizer.state[parameter] = {
                            key: tensors[f"{key}.{name}"].to(parameter.device)
                            for key in ("step", "exp_avg", "exp_avg_sq")
                        }
                    if f"grad.{name}" in tensors:
                        parameter.grad = tensors[f"grad.{name}"].to(parameter.device)
            if self._place_V is not None:
                self.drafter.assign_draft_ids(tensors["draft_ids_V"])
                self._place_V = token_places(self.drafter)
            self._mass = float(head.get("mass", 0.0))
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise ArtifactError(f"training state {path} can't be used: {error}") from error
        self._generator.set_state(tensors["random"])
        self.steps, self.skipped = int(head["steps"]), int(head["skipped"])
        self.slices = int(head.get("slices", self.steps + self.skipped))
        extra: dict[str, Any] = head.get("extra", {})
        return extra

    @property
    def _part_done(self) -> bool:
        """Whether gradients of an unfinished update are being collected."""
        return self.slices % self.config.accumulate != 0

    def _learn(
        self,
        started: float,
        features: Features,
        anchors: Anchors,
        packed: Packed | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> SliceMetrics:
        tokens = int((anchors.weights_BAK[..., 0] > 0).sum())
        if not self._part_done:
            self._optimizer.zero_grad(set_to_none=True)
            self._mass = 0.0
        total, mass = self._sums(features, anchors, packed)
        if interrupted():
            return _given_up(started)
        loss, norm = float(total.detach() / mass.clamp(min=1.0)), math.nan
        if math.isfinite(loss) and tokens > 0:
            total.backward()  # type: ignore[no-untyped-call]
            self._mass += float(mass)
        elif tokens > 0:
            self._mass = math.nan
        self.slices += 1
        updated = False
        if not self._part_done:
            norm = self._clipped() if self._mass > 0 else math.nan
            updated = math.isfinite(norm)
            if updated:
                self._update()
            else:
                self.skipped += 1
        return SliceMetrics(loss, tokens, norm, time.perf_counter() - started, updated)

    def _loss(self, features: Features, anchors: Anchors) -> Tensor:
        """The mean loss of a slice."""
        total, mass = self._sums(features, anchors)
        return total / mass.clamp(min=1.0)

    def _sums(
        self, features: Features, anchors: Anchors, packed: Packed | None = None
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum of all losses, and the weight that it stands for."""
        rows_BTX = features.rows_BTX
        with torch.autocast(rows_BTX.device.type, dtype=rows_BTX.dtype, enabled=self._mixed):
            logits_BAKV = self.drafter.head_logits(
                rows_BTX.float() if self._mixed else rows_BTX,
                features.next_tokens_BT,
                anchors.positions_BA,
                anchors.parents_BAK,
                *(() if packed is None else (packed.first_BT,)),
            )
        if self._mixed:
            logits_BAKV = logits_BAKV.float()
        temperatures_BT = None if packed is None else packed.temperatures_BT
        teacher_BAKV = self._teacher(features, anchors.teachers_BAK, temperatures_BT)
        labels_BAK, real_BAK = anchors.labels_BAK, anchors.weights_BAK > 0
        if self._place_V is not None:
            # What can't be drafted isn't learnt: behind such a label no draft would have been accepted.
            labels_BAK = self._place_V[labels_BAK]
            real_BAK = real_BAK & (labels_BAK >= 0)
            labels_BAK = labels_BAK.clamp(min=0)
        losses_BAK = row_losses(logits_BAKV, teacher_BAKV, labels_BAK, self.config.loss)
        if self.config.trim:
            kept_BA = inliers(losses_BAK, real_BAK * anchors.weights_BAK * self._weights_K, self.config.trim)
            self.trimmed += int((~kept_BA).sum())
            real_BAK = real_BAK & kept_BA.unsqueeze(-1)
        weighted = torch.where(real_BAK, losses_BAK * anchors.weights_BAK * self._weights_K, 0.0)
        return weighted.sum(), (anchors.total_BK.sum(0) * self._weights_K.double()).sum()

    @torch.no_grad()
    def _teacher(
        self, features: Features, positions_BAK: Tensor, temperatures_BT: Tensor | None = None
    ) -> Tensor:
        """Log-probabilities of the target at the records' own temperature (1 for greedy ones).

        Of tokens that heads don't score they are left out and the others stay as they are: the mass that is
        missing makes a divergence larger by what no head can change, and rows where little is left to learn
        count for little.
        """
        batch, length, size = features.hidden_BTF.shape
        rows_BAK = positions_BAK + torch.arange(batch, device=positions_BAK.device).view(-1, 1, 1) * length
        unique_U, inverse_BAK = torch.unique(rows_BAK, return_inverse=True)
        logits_UV = self.target.logits(features.hidden_BTF.reshape(-1, size)[unique_U])
        if self._mixed:
            logits_UV = logits_UV.float()
        if temperatures_BT is None:
            temperature_U = features.temperatures_B[unique_U // length]
        else:
            temperature_U = temperatures_BT.flatten()[unique_U]
        logits_UV /= torch.where(temperature_U > 0, temperature_U, 1.0).unsqueeze(1)
        logp_UV = logits_UV.log_softmax(-1)
        if self.drafter.draft_ids_V is not None:
            logp_UV = logp_UV[:, self.drafter.draft_ids_V]
        return logp_UV[inverse_BAK]

    def _clipped(self) -> float:
        """Make the collected gradients those of the mean loss, and clip them; their norm before."""
        gradients = [p.grad for p in self._named.values() if p.grad is not None]
        torch._foreach_div_(gradients, max(self._mass, 1.0))
        return float(torch.nn.utils.clip_grad_norm_(self._named.values(), self.config.clip_norm))

    @torch.no_grad()
    def _set(self, weights: dict[str, Tensor]) -> None:
        for name, tensor in weights.items():
            self._named[name].copy_(tensor)

    def _update(self) -> None:
        self.steps += 1
        set_rate(self._optimizer, self.config, self.steps, self.rate)
        self._optimizer.step()
        if self.leash is not None:
            self.leash.hold(self._named)
        # Early averages forget the untrained weights faster.
        keep = min(self.config.ema, self.steps / (self.steps + 10))
        for name, average in self._ema.items():
            average.lerp_(self._named[name].detach(), 1 - keep)


def _given_up(started: float) -> SliceMetrics:
    return SliceMetrics(math.nan, 0, math.nan, time.perf_counter() - started, updated=False, interrupted=True)
