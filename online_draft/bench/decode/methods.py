"""Ways to answer a list of requests: this engine, plain or with a drafter, and transformers' own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch

from online_draft.bench.decode.hf import HfMethod
from online_draft.bench.decode.options import EMBEDDED_DRAFTERS, HF_METHODS, NGRAM, DecodeOptions, heads_of
from online_draft.bench.synthetic import PREFIX, SyntheticDrafter, parse_tau
from online_draft.core import GenerationRequest, SpeculationCounts
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.errors import ConfigError
from online_draft.models.artifact import load_drafter
from online_draft.models.embedded import DRAFTERS_DIR
from online_draft.models.loading import LoadedTarget


class Method(Protocol):
    """One column of the benchmark."""

    counts: SpeculationCounts

    @property
    def exact(self) -> bool:
        """Whether its outputs must be plain decoding's, but for rounding."""
        ...

    def prepare(self, requests: Sequence[GenerationRequest], answers: Sequence[list[int]] | None) -> None:
        """Before a timed run: what is coming, and plain decoding's answers where they are known."""
        ...

    def answer(self, requests: Sequence[GenerationRequest]) -> list[list[int]]:
        """The answers, in order; adds to `counts`."""
        ...

    def speculation(self) -> dict[str, Any]:
        """The policy's `calibration` and `buckets`, the n-gram memory's `ngram`; null where there is none."""
        ...


class EngineMethod:
    """This package's engine."""

    exact = True

    def __init__(self, engine: Engine, speculate: bool, synthetic: SyntheticDrafter | None = None) -> None:
        self.engine = engine
        self.counts = SpeculationCounts()
        self._speculate = speculate
        self._synthetic = synthetic

    def prepare(self, requests: Sequence[GenerationRequest], answers: Sequence[list[int]] | None) -> None:
        """Tell a synthetic drafter the answers."""
        if self._synthetic is not None:
            assert answers is not None, "plain decoding runs first"
            self._synthetic.learn(zip(requests, answers, strict=True))

    def answer(self, requests: Sequence[GenerationRequest]) -> list[list[int]]:
        """As many requests at a time as the engine takes."""
        outputs: dict[str, list[int]] = {r.request_id: [] for r in requests}
        for request in requests:
            self.engine.add(replace(request, speculate=self._speculate))
        while self.engine.has_work:
            for output in self.engine.step():
                outputs[output.request_id].extend(output.token_ids)
                if output.counts is not None:
                    self.counts.add(output.counts)
        return [outputs[r.request_id] for r in requests]

    def speculation(self) -> dict[str, Any]:
        """What the engine's policy saw and chose, warm-up included."""
        found = self.engine.speculation_report() if self._speculate else {}
        return {name: found.get(name) for name in ("calibration", "buckets", "ngram")}


def new_method(name: str, options: DecodeOptions, loaded: LoadedTarget) -> Method:
    """A method by its name. Raises ConfigError when it lacks a drafter."""
    if name in HF_METHODS:
        return HfMethod(loaded, options.batch, lookup=name == "hf-prompt-lookup")
    config = EngineConfig(
        max_sequences=options.batch,
        max_queue=max(8, 4 * options.batch),
        kv_tokens=options.batch * (loaded.config.max_position_embeddings + 64),
        step_rows=max(EngineConfig().step_rows, 2 * options.batch),
        tree_nodes=options.tree_nodes,
        prefix_cache=False,  # repeats must not find the prompts of the one before
        speculation=options.speculation,
        noise_ranked=options.noise_ranked,
        ngram=name.endswith(NGRAM),
        kernels=options.kernels,
        threads=torch.get_num_threads(),
    )
    engine = Engine(loaded, config)
    if name == "plain":
        return EngineMethod(engine, speculate=False)
    if name.startswith(PREFIX):
        drafter = new_synthetic(name, engine, loaded)
        return EngineMethod(engine, speculate=True, synthetic=drafter)
    if name == NGRAM:
        return EngineMethod(engine, speculate=True)
    heads = heads_of(name)
    path = options.drafters.get(heads)
    if path is None and options.target != "embedded":
        raise ConfigError("drafter", f"name the drafter to measure: --drafter {heads}=DIR")
    path = path or DRAFTERS_DIR / EMBEDDED_DRAFTERS[heads]
    engine.set_drafter(load_drafter(path, loaded.target, loaded.fingerprint), name)
    return EngineMethod(engine, speculate=True)


def new_synthetic(name: str, engine: Engine, loaded: LoadedTarget) -> SyntheticDrafter:
    """A synthetic drafter by its name (`synthetic:τ`), set as the engine's."""
    sizes = loaded.config.hidden_size, loaded.config.vocab_size
    drafter = SyntheticDrafter(parse_tau(name), *sizes, engine.target.device)
    drafter.attach(engine.request_in)
    engine.set_drafter(drafter, name)
    return drafter
