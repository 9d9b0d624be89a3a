"""Trains draft heads in slices of one micro-batch, between which the learner can yield at any time.

Shapes: B records, T positions, A anchors, K heads, V vocabulary, U teacher rows, F hidden size.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from online_draft.errors import ArtifactError, ConfigError
from online_draft.models.drafter import Drafter
from online_draft.models.target import Target
from online_draft.training.anchors import Anchors, sample_anchors
from online_draft.training.features import Features, Record, extract
from online_draft.training.losses import LOSS_KINDS, LossKind, depth_weights, row_losses


@dataclass(frozen=True, slots=True)
class TrainerConfig:
    """How to train. The learning rate rises over `warmup_steps` and, if `decay_steps` is set, falls along a
    cosine to a twentieth at that step; a Markov term's tables, of which a step touches few rows, learn
    `markov_rate` times as fast. `anchors` positions a record are trained on; `ema` 0 is off."""

    learning_rate: float = 4e-3
    markov_rate: float = 3.0
    warmup_steps: int = 20
    decay_steps: int = 0
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    anchors: int = 48
    max_tokens: int = 512
    depth_decay: float = 0.8
    loss: LossKind = "kl+ce"
    ema: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in LOSS_KINDS:
            raise ConfigError("trainer.loss", f"{self.loss!r} is not one of {', '.join(LOSS_KINDS)}")
        if not 0 <= self.ema < 1:
            raise ConfigError("trainer.ema", f"must be at least 0 and below 1, got {self.ema}")
        for name in ("learning_rate", "markov_rate", "clip_norm", "anchors", "max_tokens"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"trainer.{name}", f"must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class SliceMetrics:
    """What one slice did: `updated` is False when it was skipped (nothing to learn, or values not finite)."""

    loss: float
    tokens: int
    grad_norm: float
    seconds: float
    updated: bool


class Trainer:
    """Owns the optimiser of one drafter. Not thread-safe; `slice` mutates the drafter in place."""

    def __init__(self, drafter: Drafter, target: Target, config: TrainerConfig | None = None) -> None:
        self.drafter = drafter
        self.target = target
        self.config = config or TrainerConfig()
        self.steps = 0
        self.skipped = 0
        """Updates thrown away because loss or gradient was not finite."""
        drafter.requires_grad_(True).train()
        self._named = dict(drafter.named_parameters())
        fast = {name for name in self._named if name.startswith("markov")}
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [p for n, p in self._named.items() if n not in fast], "scale": 1.0},
                {
                    "params": [p for n, p in self._named.items() if n in fast],
                    "scale": self.config.markov_rate,
                },
            ],
            lr=self.config.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        self._generator = torch.Generator().manual_seed(self.config.seed)
        self._weights_K = depth_weights(drafter.num_heads, self.config.depth_decay, target.device)
        self._ema = {name: p.detach().clone() for name, p in self._named.items()} if self.config.ema else {}

    @property
    def slices(self) -> int:
        """Slices that ended in an update or in a skipped one."""
        return self.steps + self.skipped

    def decay_by(self, steps: int) -> None:
        """Let the learning rate reach its floor at this step."""
        self.config = replace(self.config, decay_steps=steps)

    def slice(self, records: Sequence[Record]) -> SliceMetrics:
        """One forward, backward and update on these records. Bad values leave all weights as they were."""
        started = time.perf_counter()
        records = [record for record in records if len(record.output_ids) > 1]
        if not records:
            return SliceMetrics(math.nan, 0, math.nan, time.perf_counter() - started, updated=False)
        features = extract(self.target, records, self.config.max_tokens)
        anchors = sample_anchors(features, self.config.anchors, self.drafter.num_heads, self._generator)
        tokens = int((anchors.weights_BAK[..., 0] > 0).sum())
        loss = self._loss(features, anchors)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self._named.values(), self.config.clip_norm)
        loss_value, norm_value = float(loss.detach()), float(norm)
        updated = math.isfinite(loss_value) and math.isfinite(norm_value) and tokens > 0
        if updated:
            self._update()
        else:
            self.skipped += 1
        return SliceMetrics(loss_value, tokens, norm_value, time.perf_counter() - started, updated)

    def candidate(self) -> Drafter:
        """A frozen copy of the drafter as it should be judged and published (EMA weights if kept)."""
        copy = self.drafter.clone()
        if self._ema:
            copy.load_state_dict(self._ema)
        return copy.requires_grad_(False).eval()

    def save(self, path: str | Path) -> None:
        """Weights, optimiser, random state and counts in one safetensors file, replaced at once."""
        path = Path(path)
        tensors = {f"weight.{name}": tensor.detach() for name, tensor in self._named.items()}
        tensors |= {f"ema.{name}": tensor for name, tensor in self._ema.items()}
        for name, parameter in self._named.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = value
        tensors["random"] = self._generator.get_state()
        head = {"steps": self.steps, "skipped": self.skipped, "config": asdict(self.config)}
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, {"trainer": json.dumps(head)})
        os.replace(temporary, path)

    def load(self, path: str | Path) -> None:
        """Go on where `save` left off. Raises ArtifactError when the file doesn't fit this drafter."""
        try:
            with safe_open(path, framework="pt") as file:
                head = json.loads((file.metadata() or {})["trainer"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            with torch.no_grad():
                for name, parameter in self._named.items():
                    parameter.copy_(tensors[f"weight.{name}"])
                    if self._ema:
                        self._ema[name].copy_(tensors.get(f"ema.{name}", tensors[f"weight.{name}"]))
                    if head["steps"]:
                        self._optimizer.state[parameter] = {
                            key: tensors[f"{key}.{name}"].to(parameter.device)
                            for key in ("step", "exp_avg", "exp_avg_sq")
                        }
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise ArtifactError(f"training state {path} can't be used: {error}") from error
        self._generator.set_state(tensors["random"])
        self.steps, self.skipped = int(head["steps"]), int(head["skipped"])

    def _loss(self, features: Features, anchors: Anchors) -> Tensor:
        logits_BAKV = self.drafter.head_logits(
            features.hidden_BTF, features.next_tokens_BT, anchors.positions_BA, anchors.parents_BAK
        )
        teacher_BAKV = self._teacher(features, anchors.teachers_BAK)
        losses_BAK = row_losses(logits_BAKV, teacher_BAKV, anchors.labels_BAK, self.config.loss)
        real_BAK = anchors.weights_BAK > 0
        weighted = torch.where(real_BAK, losses_BAK * anchors.weights_BAK * self._weights_K, 0.0)
        return weighted.sum() / (anchors.total_BK * self._weights_K).sum().clamp(min=1.0)

    @torch.no_grad()
    def _teacher(self, features: Features, positions_BAK: Tensor) -> Tensor:
        """Log-probabilities of the target at the records' own temperature (1 for greedy ones)."""
        batch, length, size = features.hidden_BTF.shape
        rows_BAK = positions_BAK + torch.arange(batch, device=positions_BAK.device).view(-1, 1, 1) * length
        unique_U, inverse_BAK = torch.unique(rows_BAK, return_inverse=True)
        logits_UV = self.target.logits(features.hidden_BTF.reshape(-1, size)[unique_U])
        temperature_B = torch.where(features.temperatures_B > 0, features.temperatures_B, 1.0)
        logits_UV /= temperature_B[unique_U // length].unsqueeze(1)
        return logits_UV.log_softmax(-1)[inverse_BAK]

    def _update(self) -> None:
        self.steps += 1
        rate = self.config.learning_rate * self._schedule()
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self._optimizer.step()
        # Early averages forget the untrained weights faster.
        keep = min(self.config.ema, self.steps / (self.steps + 10))
        for name, average in self._ema.items():
            average.lerp_(self._named[name].detach(), 1 - keep)

    def _schedule(self) -> float:
        rise = min(1.0, self.steps / max(1, self.config.warmup_steps))
        if not self.config.decay_steps:
            return rise
        done = min(1.0, self.steps / self.config.decay_steps)
        return rise * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
