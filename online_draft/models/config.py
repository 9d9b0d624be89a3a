"""What a target looks like: the four supported families, described by one record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from online_draft.errors import TargetError
from online_draft.models.rope import RopeKind, RopeScaling

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Architecture = Literal["llama", "mistral", "qwen2", "qwen3"]

ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
ROPE_KINDS: tuple[RopeKind, ...] = get_args(RopeKind)

SUPPORTED = (
    "supported are Hugging Face causal language models of the Llama (SmolLM too), Mistral, Qwen2 "
    "(Qwen2.5 too) and Qwen3 families with SiLU feed-forward layers, full attention and "
    f"{', '.join(ROPE_KINDS)} rotary embedding"
)


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """Sizes and switches of a target; everything its forward pass depends on besides the weights.

    `attention_bias` is the bias of queries, keys and values, `output_bias` that of the attention's output.
    """

    architecture: Architecture
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise TargetError(f"architecture {self.architecture!r} is not supported; {SUPPORTED}")
        if self.num_heads % self.num_kv_heads:
            raise TargetError(
                f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads ({self.num_kv_heads})"
            )
        if self.head_dim % 2:
            raise TargetError(f"head_dim ({self.head_dim}) must be even for rotary embedding")

    @classmethod
    def tiny(
        cls, architecture: Architecture = "llama", tie: bool = False, vocab_size: int = 97, **changes: Any
    ) -> TargetConfig:
        """A model of a few thousand parameters with every trait of its family, for tests and dry runs.

        Queries share key-value heads, and heads are wider together than the hidden state.
        """
        config = cls(
            architecture=architecture,
            vocab_size=vocab_size,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=12,
            intermediate_size=48,
            max_position_embeddings=512,
            tie_word_embeddings=tie,
            attention_bias=architecture == "qwen2",
            qk_norm=architecture == "qwen3",
            eos_token_ids=(0,),
        )
        return replace(config, **changes)

    @classmethod
    def from_hf(cls, hf: PretrainedConfig) -> TargetConfig:
        """Read a transformers configuration. TargetError names what isn't supported and lists what is."""
        architecture = _architecture(hf)
        max_positions = int(hf.max_position_embeddings)
        num_heads = int(hf.num_attention_heads)
        bias = bool(getattr(hf, "attention_bias", False))
        theta, scaling = _rope(hf, max_positions)
        _refuse_sliding_window(hf, max_positions)
        if getattr(hf, "hidden_act", "silu") not in ("silu", "swish"):
            raise TargetError(f"hidden_act {hf.hidden_act!r} is not supported; {SUPPORTED}")
        if getattr(hf, "mlp_bias", False):
            raise TargetError(f"mlp_bias is not supported; {SUPPORTED}")
        return cls(
            architecture=architecture,
            vocab_size=int(hf.vocab_size),
            hidden_size=int(hf.hidden_size),
            num_layers=int(hf.num_hidden_layers),
            num_heads=num_heads,
            num_kv_heads=int(getattr(hf, "num_key_value_heads", None) or num_heads),
            head_dim=int(getattr(hf, "head_dim", None) or hf.hidden_size // num_heads),
            intermediate_size=int(hf.intermediate_size),
            rms_norm_eps=float(hf.rms_norm_eps),
            rope_theta=theta,
            rope_scaling=scaling,
            max_position_embeddings=max_positions,
            tie_word_embeddings=bool(hf.tie_word_embeddings),
            attention_bias=architecture == "qwen2" or (architecture != "mistral" and bias),
            output_bias=architecture in ("llama", "qwen3") and bias,
            qk_norm=architecture == "qwen3",
            eos_token_ids=token_ids(getattr(hf, "eos_token_id", None)),
        )


def token_ids(value: int | list[int] | tuple[int, ...] | None) -> tuple[int, ...]:
    """Transformers' `eos_token_id`, which is one id, several or none, as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def check_architecture(model_type: str | None) -> Architecture:
    """The family of a `model_type`, or TargetError with the list of what is supported."""
    if model_type not in ARCHITECTURES:
        raise TargetError(f"model type {model_type!r} is not supported; {SUPPORTED}")
    return model_type


def _architecture(hf: PretrainedConfig) -> Architecture:
    classes = getattr(hf, "architectures", None) or []
    if classes and not any(name.endswith("ForCausalLM") for name in classes):
        raise TargetError(f"model class {classes[0]} is not supported; {SUPPORTED}")
    if getattr(hf, "quantization_config", None):
        raise TargetError(f"quantized weights are not supported; {SUPPORTED}")
    return check_architecture(hf.model_type)


def _rope(hf: PretrainedConfig, max_positions: int) -> tuple[float, RopeScaling]:
    rope: Mapping[str, Any] = getattr(hf, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    if kind not in ROPE_KINDS:
        raise TargetError(f"rope_type {kind!r} is not supported; {SUPPORTED}")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise TargetError(f"partial_rotary_factor other than 1 is not supported; {SUPPORTED}")
    theta = float(rope["rope_theta"])
    if kind == "default":
        return theta, RopeScaling()
    if kind == "linear":
        return theta, RopeScaling("linear", factor=float(rope["factor"]))
    return theta, RopeScaling(
        "llama3",
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_positions=int(rope.get("original_max_position_embeddings") or max_positions),
    )


def _refuse_sliding_window(hf: PretrainedConfig, max_positions: int) -> None:
    window = getattr(hf, "sliding_window", None)
    if window is not None and window < max_positions and getattr(hf, "use_sliding_window", True):
        raise TargetError(
            f"sliding_window {window} below max_position_embeddings {max_positions} is not supported; "
            f"{SUPPORTED}"
        )
