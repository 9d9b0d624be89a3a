"""Options that several measurements share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from online_draft.errors import ConfigError

Target = Annotated[str, typer.Option(help="embedded, a directory or a Hub name.")]
DrafterDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Default: the embedded baseline.")]
PromptFile = Annotated[Path | None, typer.Option(help="JSON lines with prompt, messages or turns.")]
MaxNewTokens = Annotated[int, typer.Option(min=1)]
TwoOrMoreTokens = Annotated[int, typer.Option(min=2)]
Temperature = Annotated[float, typer.Option(min=0.0)]
Threads = Annotated[int | None, typer.Option(min=1)]
Repeat = Annotated[int, typer.Option(min=1)]
TreeNodes = Annotated[int, typer.Option(min=1)]
Speculation = Annotated[
    str, typer.Option(help="auto: as much as pays; always: tree-nodes at every step; off: none.")
]
Kernels = Annotated[str, typer.Option(help="wait: compiled code; off: torch.")]


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers between commas. ConfigError names the option."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--{option}", f"{text!r} is not a list of whole numbers") from None
