"""Fixtures for all tests."""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from online_draft.core import Interaction

if os.environ.get("PYTEST_XDIST_WORKER", "gw0") != "gw0":
    os.nice(5)  # the first worker has the tests with a running system, and those that measure


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files as they are sorted: the first worker takes them from the front, others from the back.

    So one Ray runs at a time, and what two workers take from the middle is short.
    """
    from xdist.scheduler import LoadFileScheduling

    class BothEnds(LoadFileScheduling):
        def _assign_work_unit(self, node: Any) -> None:
            if node.gateway.id != "gw0":
                self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
            super()._assign_work_unit(node)

    config.option.loadscopereorder = False
    return BothEnds(config, log)


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Of the processes that run these tests."""
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Path]:
    """One cache for all tests and their processes; the user's stays as it is.

    Kernels are named after their sources, so pytest's cache keeps them from one run to the next. Two
    workers share it.
    """
    pytest_cache = getattr(pytestconfig, "cache", None)  # none with -p no:cacheprovider
    kept = pytest_cache.mkdir("kernels") if pytest_cache else tmp_path_factory.mktemp("kernels")
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    cache, lock = shared / "cache", shared / "kernels.lock"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONLINE_DRAFT_CACHE", str(cache))
        with one_at_a_time(lock):
            (cache / "kernels").mkdir(mode=0o700, parents=True, exist_ok=True)
            brought = {library.name for library in kept.glob("[!t]*.so")}
            for name in brought:
                if not (cache / "kernels" / name).exists():
                    shutil.copy2(kept / name, cache / "kernels")
        yield cache
        with one_at_a_time(lock):
            for library in cache.glob("kernels/[!t]*.so"):
                if library.name not in brought and not (kept / library.name).exists():
                    for old in sorted(kept.iterdir(), key=lambda file: file.stat().st_mtime)[:-2]:
                        old.unlink(missing_ok=True)
                    shutil.copy2(library, kept)


@pytest.fixture(scope="session")
def library() -> ctypes.CDLL:
    """The compiled kernels, built once."""
    from online_draft.models.native.build import find_compiler, kernels

    if find_compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    loaded = kernels.wait(300)
    assert loaded is not None, kernels.error
    return loaded


@pytest.fixture
def make_interaction() -> Callable[..., Interaction]:
    """A factory: `make_interaction(index, **changes)`; another index is another prompt and output."""

    def make(index: int = 0, **changes: Any) -> Interaction:
        fields: dict[str, Any] = {
            "target": "llama-0123456789abcdef-01234567",
            "tenant": "default",
            "segment": "sql",
            "prompt_ids": (1, *(int(digit) + 10 for digit in f"{index:06d}"), 2047),
            "output_ids": (5, 6, 7, 300 + index % 1000, 2),
            "temperature": 0.7,
            "top_p": 1.0,
            "top_k": 0,
            "seed": 1234 + index,
            "prompt_index": 0,
            "choice_index": 0,
            "accepted_lengths": (3, 2),
            "tried": (2, 2, 1),
            "accepted": (2, 1, 0),
            "drafter_version": "baseline",
            "finished_at_ms": 1_700_000_000_000 + index,
        }
        return Interaction(**{**fields, **changes})

    return make


@pytest.fixture(scope="session")
def make_adapter() -> Callable[..., Any]:
    """A factory: `make_adapter(drafter, segment, rank, seed, scale)`, random in every layer."""

    def make(drafter: Any, segment: str = "a", rank: int = 3, seed: int = 0, scale: float = 0.3) -> Any:
        import torch

        from online_draft.models.adapters.adapter import Adapter, AdapterCard, LowRank, layers
        from online_draft.models.artifact import base_digest

        generator, dtype = torch.Generator().manual_seed(seed), next(drafter.parameters()).dtype

        def draw(rows: int, columns: int) -> Any:
            return scale * torch.randn(rows, columns, generator=generator, dtype=dtype)

        weights = {
            name: LowRank(draw(rank, ins), draw(outs, rank))
            for name, (ins, outs) in layers(drafter.adapter_sites()).items()
        }
        card = AdapterCard(segment, drafter.kind, "target", base_digest(drafter), "v1")
        return Adapter(card, rank, weights)

    return make


@pytest.fixture(scope="session")
def save_adapter() -> Callable[..., Path]:
    """`save_adapter(adapter, directory, **card changes)`: the files that `peft` and we would write."""

    def save(adapter: Any, directory: Path, **changes: Any) -> Path:
        import json
        from dataclasses import replace

        from safetensors.torch import save_file

        from online_draft.models.adapters.files import CONFIG_FILE, WEIGHTS_FILE, write_card

        directory.mkdir(parents=True, exist_ok=True)
        config = {"peft_type": "LORA", "r": adapter.rank, "lora_alpha": adapter.rank, "bias": "none"}
        (directory / CONFIG_FILE).write_text(json.dumps(config))
        tensors = {}
        for name, weight in adapter.weights.items():
            tensors[f"base_model.model.{name}.lora_A.weight"] = weight.down_RI.contiguous()
            tensors[f"base_model.model.{name}.lora_B.weight"] = weight.up_OR.contiguous()
        save_file(tensors, directory / WEIGHTS_FILE)
        write_card(directory, replace(adapter.card, **changes))
        return directory

    return save


@dataclass(frozen=True)
class Traffic:
    """A tiny target with random weights, whose answers draft heads can learn in a second."""

    loaded: Any

    def interactions(
        self, count: int, segment: str = "a", seed: int = 0, at_ms: int | None = None
    ) -> list[Interaction]:
        """Prompts of this segment's own tokens, answered by the target alone."""
        from online_draft.core import GenerationRequest, SamplingParams
        from online_draft.decoding.config import EngineConfig
        from online_draft.decoding.engine import Engine

        rng = random.Random(f"{segment}:{seed}")
        engine = Engine(self.loaded, EngineConfig(max_sequences=16, max_queue=count))
        low = 20 * (ord(segment[0]) % 3)
        requests = {}
        for index in range(count):
            prompt = tuple(low + rng.randrange(20) for _ in range(6))
            sampling = SamplingParams(
                temperature=0.5, max_tokens=32, seed=seed * 10_000 + index, ignore_eos=True
            )
            requests[str(index)] = GenerationRequest(str(index), prompt, sampling, segment=segment)
            engine.add(requests[str(index)])
        outputs: dict[str, list[int]] = {name: [] for name in requests}
        while engine.has_work:
            for output in engine.step():
                outputs[output.request_id].extend(output.token_ids)
        now_ms = time.time_ns() // 1_000_000 if at_ms is None else at_ms
        return [
            Interaction(
                target=self.loaded.fingerprint,
                tenant="default",
                segment=segment,
                prompt_ids=request.prompt_ids,
                output_ids=tuple(outputs[name]),
                temperature=0.5,
                top_p=1.0,
                top_k=0,
                seed=request.sampling.seed,
                prompt_index=0,
                choice_index=0,
                accepted_lengths=(1,) * len(outputs[name]),
                tried=(),
                accepted=(),
                drafter_version="none",
                finished_at_ms=now_ms + index,
            )
            for index, (name, request) in enumerate(requests.items())
        ]

    def drafter(self, **sizes: Any) -> Any:
        """An untrained Amphista for this target, the same every time."""
        import torch

        from online_draft.models.artifact import new_drafter

        small = {
            "num_heads": 3,
            "window": 16,
            "attention_heads": 2,
            "intermediate_size": 32,
            "markov_rank": 16,
        }
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return new_drafter("amphista", self.loaded.target, **{**small, **sizes})


@pytest.fixture(scope="session")
def traffic() -> Traffic:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from online_draft.models.config import TargetConfig
    from online_draft.models.loading import LoadedTarget, random_target

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:64]
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    config = TargetConfig.tiny("llama", False, 64)
    target = random_target(config, 0, torch.float32, logit_scale=4.0)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    return Traffic(LoadedTarget(target, fast, config, "llama-0123456789abcdef-01234567", "tiny", Path()))


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    """`until(condition, seconds, what)` returns what the condition gives as soon as that is true, else fails
    with `what`, which may be a function. Exceptions of the condition that are `ignoring` mean not yet."""

    def wait(
        condition: Callable[[], Any],
        seconds: float = 20,
        what: Callable[[], object] | str = "the condition never held",
        ignoring: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> Any:
        deadline, pause_s = time.monotonic() + seconds, 0.005
        while True:
            try:
                if found := condition():
                    return found
            except ignoring:
                pass
            if time.monotonic() > deadline:
                pytest.fail(f"not within {seconds} s: {what() if callable(what) else what}")
            time.sleep(pause_s)
            pause_s = min(0.05, 1.2 * pause_s)

    return wait
