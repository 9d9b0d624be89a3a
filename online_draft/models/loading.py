"""From a name or a directory to a target that can run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from online_draft.errors import TargetError
from online_draft.models.config import TargetConfig, check_architecture, token_ids
from online_draft.models.fingerprint import target_fingerprint
from online_draft.models.target import Target
from online_draft.models.weights import copy_weights, weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EMBEDDED = "embedded"
"""Name of the target that ships with the package."""

EMBEDDED_PATH = Path(__file__).parent / "embedded" / "target"

_HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.txt")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True, slots=True)
class LoadedTarget:
    """A target with all that belongs to it. `name` is how clients see it; `path` where its files are."""

    target: Target
    tokenizer: PreTrainedTokenizerBase
    config: TargetConfig
    fingerprint: str
    name: str
    path: Path


def resolve_target(name: str | Path) -> Path:
    """The local directory of a target: `embedded`, a directory, or a Hugging Face Hub name (downloaded once).

    May block on the network for a Hub name. TargetError when there is no such target or no way to reach it.
    """
    if str(name) == EMBEDDED:
        if not (EMBEDDED_PATH / "config.json").is_file():
            raise TargetError(
                f"--target {EMBEDDED}: {EMBEDDED_PATH} has no config.json; reinstall the package"
            )
        return EMBEDDED_PATH
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    text = str(name)
    if isinstance(name, Path) or path.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1:
        raise TargetError(f"--target {name}: no such directory")
    return _download(text)


def load_target(
    name: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    make: Callable[[TargetConfig, torch.dtype, torch.device | str], Target] = Target,
) -> LoadedTarget:
    """Load `embedded`, a directory or a Hub name. Reads safetensors only; executes nothing.

    `make` builds what weights are copied to (`head.TargetHead`: only some of them).

    TargetError, naming `--target`, for missing or damaged files and for anything that isn't supported.
    """
    path = resolve_target(name)
    try:
        config = read_config(path)
        files = weight_files(path)
        tokenizer = _read_tokenizer(path)
        config = replace(config, eos_token_ids=_eos_token_ids(path, config, tokenizer))
        target = make(config, dtype, device)
        digests = copy_weights(target, files)
    except TargetError as error:
        raise TargetError(f"--target {name}: {error}") from error
    fingerprint = target_fingerprint(config, digests, tokenizer_bytes(path))
    shown = path.resolve().name if Path(name).expanduser().is_dir() else str(name)
    return LoadedTarget(target, tokenizer, config, fingerprint, shown, path)


def read_config(path: Path) -> TargetConfig:
    """The configuration in a target's directory, checked against what is supported."""
    from transformers import AutoConfig

    check_architecture(_read_json(path / "config.json").get("model_type"))
    try:
        return TargetConfig.from_hf(AutoConfig.from_pretrained(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TargetError(f"{path / 'config.json'} can't be read: {error}") from error


def random_target(
    config: TargetConfig,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    logit_scale: float = 3.0,
) -> Target:
    """A target with seeded random weights, for tests and dry runs; `logit_scale` is its logits' rough spread.

    The numbers are drawn in float32 on the CPU: one seed gives the same weights on every device and, rounded,
    in every dtype.
    """
    target = Target(config, dtype, device)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in target.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        parameter.copy_(_scaled(name, drawn, logit_scale))
    return target


def _scaled(name: str, drawn: Tensor, logit_scale: float) -> Tensor:
    if name.endswith("norm"):
        return torch.mul(1 + 0.1 * drawn, logit_scale if name == "norm" else 1.0)
    return torch.mul(drawn, 0.3 if name.endswith("bias") else drawn.shape[-1] ** -0.5)


def _read_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        return cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(path))
    except Exception as error:  # transformers raises whatever its converters raise
        raise TargetError(f"the tokenizer in {path} can't be read: {error}") from error


def tokenizer_bytes(path: Path) -> bytes:
    """What stands for a directory's tokenizer in the fingerprint; empty without one."""
    files = (path / name for name in _TOKENIZER_FILES)
    return next((file.read_bytes() for file in files if file.is_file()), b"")


def _eos_token_ids(path: Path, config: TargetConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Generation defaults win over the model's; the tokenizer's own (the end of a chat turn) is added."""
    generation = path / "generation_config.json"
    chosen = token_ids(_read_json(generation).get("eos_token_id")) if generation.is_file() else ()
    own = token_ids(cast("int | None", tokenizer.eos_token_id))
    return tuple(dict.fromkeys((chosen or config.eos_token_ids) + own))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TargetError(f"{path} can't be read: {error}") from error
    if not isinstance(value, dict):
        raise TargetError(f"{path} must hold a JSON object")
    return value


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(_HUB_FILES)))
    except (OSError, ValueError) as error:
        raise TargetError(
            f"--target {name}: neither a local directory nor obtainable from the Hugging Face Hub "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); accepted are '{EMBEDDED}', a directory "
            "with config.json, tokenizer and safetensors weights, or a Hub name (reachable or in the cache)"
        ) from error
