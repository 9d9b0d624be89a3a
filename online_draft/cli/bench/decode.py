"""`bench decode`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from online_draft.cli.bench.options import (
    Kernels,
    MaxNewTokens,
    Repeat,
    Speculation,
    Target,
    Temperature,
    Threads,
    TreeNodes,
)
from online_draft.cli.options import JsonOut
from online_draft.errors import ConfigError


def decode(
    target: Target = "embedded",
    methods: Annotated[
        str,
        typer.Option(
            help="Comma-separated: plain, medusa, amphista, ngram (no heads), amphista+ngram, synthetic:τ "
            "(hits are drawn), hf-generate, hf-prompt-lookup (transformers' own)."
        ),
    ] = "plain,medusa,amphista",
    drafters: Annotated[list[str] | None, typer.Option("--drafter", metavar="METHOD=DIR")] = None,
    prompts: Annotated[
        str, typer.Option(help="default, copying, or JSON lines with prompt, messages or turns.")
    ] = "default",
    batch: Annotated[int, typer.Option(min=1)] = 1,
    max_new_tokens: MaxNewTokens = 128,
    limit: Annotated[int | None, typer.Option(min=1, help="Only this many prompts.")] = None,
    temperature: Temperature = 0.0,
    device: str = "cpu",
    dtype: str = "float32",
    threads: Threads = None,
    repeat: Repeat = 3,
    tree_nodes: TreeNodes = 16,
    speculation: Speculation = "auto",
    noise_ranked: Annotated[
        bool, typer.Option(help="Rank trees of sampled answers by the noise of their request.")
    ] = True,
    kernels: Kernels = "wait",
    json_out: JsonOut = None,
) -> None:
    """Methods of decoding on the same prompts, interleaved in one run."""
    from online_draft.bench.decode import DecodeOptions, prompt_file, run

    directories = {}
    for pair in drafters or []:
        method, equals, directory = pair.partition("=")
        if not equals:
            raise ConfigError("--drafter", f"{pair!r} is not METHOD=DIR")
        directories[method] = Path(directory)
    options = DecodeOptions(
        target=target,
        methods=tuple(method.strip() for method in methods.split(",")),
        drafters=directories,
        prompts=prompt_file(prompts),
        batch=batch,
        max_new_tokens=max_new_tokens,
        limit=limit,
        temperature=temperature,
        device=device,
        dtype=dtype,
        threads=threads,
        repeat=repeat,
        tree_nodes=tree_nodes,
        speculation=speculation,  # type: ignore[arg-type]  # checked by measure
        noise_ranked=noise_ranked,
        kernels=kernels,  # type: ignore[arg-type]
        json_path=json_out,
    )
    raise typer.Exit(run(options))
