"""What is compared: one change of the recipe a row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from online_draft.models.config import TargetConfig

Data = Literal["mixed", "greedy", "sampled"]

BASE = "base"
HEADS = 5
SIZES: dict[str, Any] = {"stages": 2, "block_layers": 1, "markov_rank": 64, "window": 256}
"""The base's sizes, named here so that a table means the same when the package's defaults move."""

RECIPE: dict[str, Any] = {
    "learning_rate": 4e-3,
    "markov_rate": 3.0,
    "warmup_steps": 20,
    "anchors": 24,
    "depth_decay": 0.8,
    "loss": "kl+ce",
}
"""The base's training, likewise."""

RECOMPUTED = (1, 8, 32, 64)
"""Rows of the prompt that a prefix-cache hit leaves to the drafter."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the table.

    `sizes` override the base's `SIZES`, `trainer` its `RECIPE`; `data` are the answers it
    learns from. `recompute` R is no drafter of its own: the base's, judged with R rows of each prompt.
    """

    name: str
    group: str
    method: str = "amphista"
    sizes: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    data: Data = "mixed"
    recompute: int | None = None

    def sizes_for(self, target: TargetConfig) -> dict[str, Any]:
        """All sizes; "thirds" becomes the target's layers at a third and two thirds of its depth."""
        if self.method != "amphista":
            return {"num_heads": HEADS, **self.sizes}
        sizes = {"num_heads": HEADS, **SIZES, **self.sizes}
        if sizes.get("feature_layers") == "thirds":
            layers = target.num_layers
            sizes["feature_layers"] = (max(1, layers // 3), max(1, 2 * layers // 3))
        return sizes


def _variants() -> tuple[Variant, ...]:
    return (
        Variant(BASE, "base"),
        Variant("medusa", "method", "medusa"),
        Variant("plain", "method", sizes={"markov_rank": 0}),
        Variant("block-0", "block layers", sizes={"block_layers": 0}),
        Variant("block-2", "block layers", sizes={"block_layers": 2}),
        Variant("block-context-32", "block context", sizes={"block_context": 32}),
        Variant("stages-0", "stages", sizes={"stages": 0}),
        Variant("stages-1", "stages", sizes={"stages": 1}),
        Variant("sources-00011", "sources", sizes={"sources": (0, 0, 0, 1, 1)}),
        Variant("sources-11000", "sources", sizes={"sources": (1, 1, 0, 0, 0)}),
        Variant("sources-11111", "sources", sizes={"sources": (1, 1, 1, 1, 1)}),
        Variant("sources-20000", "sources", sizes={"sources": (2, 0, 0, 0, 0)}),
        *(Variant(f"heads-{k}", "heads", sizes={"num_heads": k}) for k in (3, 4, 6, 7, 8)),
        Variant("layers-mixed", "feature layers", sizes={"feature_layers": "thirds"}),
        *(Variant(f"markov-{r}", "markov rank", sizes={"markov_rank": r}) for r in (32, 128, 256)),
        *(Variant(f"window-{w}", "window", sizes={"window": w}) for w in (32, 64, 128)),
        *(Variant(f"recompute-{r}", "prefix recompute", recompute=r) for r in RECOMPUTED),
        *(Variant(f"decay-{d}", "depth weights", trainer={"depth_decay": d}) for d in (0.6, 1.0)),
        *(
            Variant(f"loss-{loss}", "loss", trainer={"loss": loss})
            for loss in ("kl", "ce", "reverse_kl", "js", "tv", "tvd++", "overlap")
        ),
        Variant("data-greedy", "data", data="greedy"),
        Variant("data-sampled", "data", data="sampled"),
    )


VARIANTS = {variant.name: variant for variant in _variants()}
NAMES = tuple(VARIANTS)
PRESETS: dict[str, tuple[str, ...]] = {"quick": (BASE, "medusa", "block-0", "recompute-8"), "full": NAMES}


def trained(names: tuple[str, ...]) -> list[Variant]:
    """The variants to train for these rows, in order: a `recompute` row needs the base's drafter."""
    wanted = {BASE if VARIANTS[name].recompute is not None else name for name in names}
    return [VARIANTS[name] for name in NAMES if name in wanted]
