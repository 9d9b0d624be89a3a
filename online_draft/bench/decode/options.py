"""What `bench decode` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from online_draft.bench.synthetic import PREFIX, parse_tau
from online_draft.errors import ConfigError

_SHIPPED = Path(__file__).parents[1] / "prompts"
DEFAULT_PROMPTS = _SHIPPED / "default.jsonl"
PROMPTS = {"default": DEFAULT_PROMPTS, "copying": _SHIPPED / "copying.jsonl"}
"""Prompt files that ship. `copying` asks for what stands in the prompt, changed a little or not at all."""
METHODS = ("plain", "medusa", "amphista")
"""What runs unless others are named."""
NGRAM = "ngram"
"""Alone: the n-gram memory without heads; behind a method and a plus: beside its heads."""

EMBEDDED_DRAFTERS = {"medusa": "medusa", "amphista": "baseline"}
"""The embedded target's drafter of each method."""

HF_METHODS = ("hf-generate", "hf-prompt-lookup")


def heads_of(method: str) -> str:
    """The method whose heads draft, without the n-gram memory beside them."""
    return method.removesuffix(f"+{NGRAM}")


def prompt_file(name: str) -> Path:
    """A prompt file by its path, or by its name where it ships."""
    return PROMPTS.get(name, Path(name))


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Options of `bench decode`. `drafters` maps a method to a drafter directory other than the default, for
    that method with n-grams too."""

    target: str = "embedded"
    methods: tuple[str, ...] = METHODS
    drafters: dict[str, Path] = field(default_factory=dict)
    prompts: Path | None = None
    batch: int = 1
    max_new_tokens: int = 128
    limit: int | None = None
    temperature: float = 0.0
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    repeat: int = 3
    tree_nodes: int = 16
    speculation: Literal["auto", "always", "off"] = "auto"
    noise_ranked: bool = True
    kernels: Literal["wait", "off"] = "wait"
    json_path: Path | None = None

    @property
    def synthetic(self) -> tuple[str, ...]:
        """The methods that draw their hits."""
        return tuple(method for method in self.methods if method.startswith(PREFIX))

    def check(self) -> None:
        """Raise ConfigError, naming the option, for what can't be measured."""
        self._check_methods()
        for name in ("batch", "max_new_tokens", "repeat", "tree_nodes"):
            if getattr(self, name) < 1:
                raise ConfigError(name.replace("_", "-"), f"must be at least 1, got {getattr(self, name)}")
        for name, accepted in (("speculation", ("auto", "always", "off")), ("kernels", ("wait", "off"))):
            if getattr(self, name) not in accepted:
                raise ConfigError(name, f"accepted are {', '.join(accepted)}; got {getattr(self, name)}")
        if self.temperature < 0:
            raise ConfigError("temperature", f"must not be negative, got {self.temperature}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError("limit", f"must be at least 1, got {self.limit}")
        for method in self.drafters:
            if method not in map(heads_of, self.methods) or method not in EMBEDDED_DRAFTERS:
                raise ConfigError("drafter", f"{method} is no method of this run that takes a drafter")
        if "hf-prompt-lookup" in self.methods:
            if self.batch != 1:
                raise ConfigError("batch", f"hf-prompt-lookup runs at batch 1 only, got {self.batch}")
            if self.temperature > 0:
                raise ConfigError(
                    "temperature", f"hf-prompt-lookup is measured greedily only, got {self.temperature}"
                )

    def _check_methods(self) -> None:
        joined = [f"{method}+{NGRAM}" for method in EMBEDDED_DRAFTERS]
        accepted = (*METHODS, NGRAM, *joined, *HF_METHODS)
        unknown = [m for m in self.methods if m not in accepted and not m.startswith(PREFIX)]
        if unknown or not self.methods:
            named = ", ".join(unknown) or "none"
            raise ConfigError("methods", f"accepted are {', '.join(accepted)}, {PREFIX}τ; got {named}")
        if len(set(self.methods)) < len(self.methods):
            raise ConfigError("methods", "a method is named twice")
        for method in self.synthetic:
            parse_tau(method)
        if self.synthetic and "plain" not in self.methods:
            raise ConfigError(
                "methods", f"{self.synthetic[0]} needs plain beside it: it proposes its answers"
            )
