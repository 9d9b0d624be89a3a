"""The embedded default model: a small chat model trained from scratch, and drafters for it, in the wheel."""

from __future__ import annotations

from pathlib import Path

TARGET_DIR = Path(__file__).parent / "target"
"""The embedded target in Hugging Face layout."""

DRAFTERS_DIR = Path(__file__).parent / "drafters"
"""Drafter versions trained for the embedded target, one directory each."""


def has_target() -> bool:
    """Whether the embedded target's weights are present."""
    return (TARGET_DIR / "model.safetensors").is_file()


__all__ = ["DRAFTERS_DIR", "TARGET_DIR", "has_target"]
