"""What a service needs, by size of the target: computed from shapes, nothing is loaded or measured.

`python -m online_draft.bench.sizes` prints the table of docs/deploy.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from online_draft.bench.step.shapes import SHAPES
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.memory import kv_token_bytes, step_bytes, target_bytes
from online_draft.models.artifact import build_drafter
from online_draft.models.config import TargetConfig
from online_draft.models.target import Target

GIB = 2**30

DRAFT_VOCAB = 32_768
"""Tokens that heads of large vocabularies score, as `distill` and the learner choose them."""

STUDENT_BYTES = 20
"""The learner's bytes for each weight of the drafter: weight, gradient, two moments, average, in float32."""

_LLAMA_3 = replace(SHAPES["1b"], tie_word_embeddings=False, head_dim=128, num_kv_heads=8)
MODELS = {
    "135M": (SHAPES["135m"], torch.float32),
    "1B": (SHAPES["1b"], torch.bfloat16),
    "8B": (
        replace(_LLAMA_3, hidden_size=4096, num_layers=32, num_heads=32, intermediate_size=14336),
        torch.bfloat16,
    ),
    "70B": (
        replace(_LLAMA_3, hidden_size=8192, num_layers=80, num_heads=64, intermediate_size=28672),
        torch.bfloat16,
    ),
}
"""SmolLM-135M on a CPU; Llama 3.2 1B, 3.1 8B and 70B on GPUs."""

BANDWIDTH = {"CPU, 50 GB/s": 50e9, "H100, 3,350 GB/s": 3350e9}
"""Bytes a second that memory gives; a step reads all weights once."""


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes: `target` with its packed copies, one `drafter` (two are resident, three during a canary or
    watch), `kv_token` of each token in the cache, `step` as in `MemoryPlan`, `learner` with a target of its
    own. `weights` is what a plain step reads."""

    weights: int
    target: int
    drafter: int
    kv_token: int
    step: int
    learner: int

    def replica(self, kv_tokens: int) -> int:
        """A whole replica with this much cache and three drafters."""
        return self.target + 3 * self.drafter + kv_tokens * self.kv_token + self.step


def size_of(config: TargetConfig, dtype: torch.dtype, engine: EngineConfig | None = None) -> Size:
    """What a target of this shape needs."""
    engine = engine or EngineConfig()
    # Packed copies are made on CPUs alone; memory that is never written takes no room.
    target = Target(config, dtype, "cpu" if dtype == torch.float32 else "meta")
    weights = sum(parameter.nbytes for parameter in target.parameters())
    sizes = {
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "attention_heads": config.num_heads,
        "intermediate_size": config.intermediate_size,
    }
    if config.vocab_size > 2 * DRAFT_VOCAB:
        sizes["draft_vocab_size"] = DRAFT_VOCAB
    with torch.device("meta"):
        drafter = build_drafter("amphista", sizes)
    numbers = sum(parameter.numel() for parameter in drafter.parameters())
    return Size(
        weights,
        target_bytes(target, engine),
        numbers * dtype.itemsize,
        kv_token_bytes(config, dtype),
        step_bytes(engine, config, dtype),
        weights + numbers * STUDENT_BYTES,
    )


def table() -> Iterator[str]:
    """Lines of Markdown."""
    heads = ["target", "weights", "with copies", "a drafter", "KV, 1,000 tokens", "a step", "learner",
             *(f"plain step at least ({name})" for name in BANDWIDTH)]  # fmt: skip
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for name, (config, dtype) in MODELS.items():
        size = size_of(config, dtype)
        parts = (size.weights, size.target, size.drafter, 1000 * size.kv_token, size.step, size.learner)
        floors = [_rounded(1000 * size.weights / speed) + " ms" for speed in BANDWIDTH.values()]
        cells = [f"{name}, {str(dtype).removeprefix('torch.')}", *map(_shown, parts), *floors]
        yield f"| {' | '.join(cells)} |"


def _shown(count: int) -> str:
    return _rounded(count / GIB) + " GiB" if count >= GIB else _rounded(count / 2**20) + " MiB"


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


if __name__ == "__main__":
    print("\n".join(table()))
