"""A frozen drafter with LoRA on its linear layers, as `Trainer` wants it and as `peft` saves it.

Shapes: N rows, K heads, F hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from online_draft.errors import ArtifactError, ConfigError
from online_draft.models.adapters.adapter import Adapter, AdapterCard, LowRank, layers
from online_draft.models.adapters.files import write_card
from online_draft.models.adapters.merge import merged
from online_draft.models.amphista import Amphista
from online_draft.models.drafter import Drafter


@dataclass(frozen=True, slots=True)
class LoraSizes:
    """`rank` of every layer's change, and `alpha`: the change counts `alpha / rank` times (None: twice)."""

    rank: int = 16
    alpha: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError("rank", f"must be at least 1, got {self.rank}")
        if self.alpha is not None and self.alpha < 1:
            raise ConfigError("alpha", f"must be at least 1, got {self.alpha}")


class LinearHeads(Amphista):
    """A copy of a drafter whose heads' own layers, one tensor in the base, are K linear layers.

    `peft` changes modules. `PeftModel.from_pretrained(LinearHeads(base), ...)` reads what was saved.
    """

    residual: nn.ModuleList

    def __init__(self, base: Drafter) -> None:
        """ArtifactError for a drafter that takes no adapters."""
        if not isinstance(base, Amphista):
            raise ArtifactError(f"{base.kind} heads take no adapters; amphista heads do")
        super().__init__(base.config)
        reference = base.residual_KFF
        self.to(reference.device, reference.dtype).load_state_dict(base.state_dict())
        self._shared = base._shared
        self.residual = nn.ModuleList(_linear(weight_FF.detach().t()) for weight_FF in reference)

    def residuals(self, source_KNF: Tensor) -> Tensor:
        """Every head's own linear layer: [K, N, F] -> [K, N, F]."""
        return torch.stack([layer(rows) for layer, rows in zip(self.residual, source_KNF, strict=True)])


class AdapterStudent(LinearHeads):
    """Trains like a drafter, but its parameters are the adapter's alone; the base never changes."""

    def __init__(self, base: Drafter, card: AdapterCard, sizes: LoraSizes = LoraSizes()) -> None:
        """`card` says what is trained. ArtifactError for a drafter that takes no adapters."""
        self._injected = False
        super().__init__(base)
        from peft import LoraConfig, get_peft_model

        assert isinstance(base, Amphista)
        self._base = (base,)
        self._card = card
        self._layers = list(layers(base.adapter_sites()))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(sizes.seed)
            config = LoraConfig(
                r=sizes.rank,
                lora_alpha=2 * sizes.rank if sizes.alpha is None else sizes.alpha,
                lora_dropout=0.0,
                bias="none",
                target_modules=self._layers,
            )
            # In a tuple, so that what wraps this module doesn't become part of it.
            self._peft: tuple[Any, ...] = (get_peft_model(self, config),)
        self._injected = True

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """The adapter's, once it is there."""
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            if not self._injected or ".lora_" in name:
                yield name, parameter

    def clone(self) -> Amphista:  # type: ignore[override]
        """The base with the adapter as it is now folded in: what is judged."""
        return merged(self._base[0], self.adapter())

    @torch.no_grad()
    def adapter(self) -> Adapter:
        """A copy of the adapter as it is now."""
        weights: dict[str, LowRank] = {}
        for name in self._layers:
            layer: Any = self.get_submodule(name)
            down_RI, up_OR = (part["default"].weight.detach() for part in (layer.lora_A, layer.lora_B))
            weights[name] = LowRank(down_RI.clone(), up_OR * layer.scaling["default"])
        return Adapter(self._card, self._peft[0].peft_config["default"].r, weights)

    def save(self, directory: Path, card: AdapterCard | None = None) -> AdapterCard:
        """Write `peft`'s files and the card (with evaluation and provenance, if another is given)."""
        self._card = card or self._card
        directory.mkdir(parents=True, exist_ok=True)
        self._peft[0].save_pretrained(str(directory), save_embedding_layers=False)
        (directory / "README.md").unlink(missing_ok=True)
        write_card(directory, self._card)
        return self._card


def _linear(weight_OI: Tensor) -> nn.Linear:
    outs, ins = weight_OI.shape
    layer = nn.Linear(ins, outs, bias=False, device=weight_OI.device, dtype=weight_OI.dtype)
    layer.weight.data.copy_(weight_OI)
    return layer
