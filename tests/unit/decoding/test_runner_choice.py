"""Compiled code takes over when it is ready, and nothing but the time of a step changes."""

from __future__ import annotations

import ctypes
import threading
from dataclasses import replace

import pytest

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.decoding.runners import select
from online_draft.decoding.runners.eager import EagerRunner
from online_draft.decoding.runners.native import NativeRunner
from online_draft.models.artifact import new_drafter

SIZES = {"num_heads": 4, "window": 32, "markov_rank": 4}


class LateKernels:
    """Kernels whose build takes until `ready` is set; None: it fails in the end."""

    def __init__(self, library: ctypes.CDLL | None) -> None:
        self.ready = threading.Event()
        self.path = None
        self._library = library

    def start(self) -> None:
        """Nothing is left to be started."""

    def get(self) -> ctypes.CDLL | None:
        return self._library if self.ready.is_set() else None

    def wait(self) -> ctypes.CDLL | None:
        assert self.ready.wait(60)
        return self._library


def requests() -> list[GenerationRequest]:
    samplings = [
        SamplingParams(temperature=0.0, max_tokens=50, ignore_eos=True),
        SamplingParams(temperature=0.9, max_tokens=60, seed=3, ignore_eos=True, logprobs=1),
        SamplingParams(temperature=1.0, top_p=0.9, max_tokens=40, seed=4, presence_penalty=0.5),
    ]
    return [
        GenerationRequest(f"r{i}", tuple((11 * i + j) % 256 for j in range(9 + 30 * i)), sampling)
        for i, sampling in enumerate(samplings)
    ]


def preparation(engine: Engine) -> threading.Thread:
    thread = engine._runners._thread
    assert thread is not None
    return thread


@pytest.mark.parametrize("speculation", ["always", "auto"])
@pytest.mark.parametrize("kind", ["amphista", "medusa"])
def test_kernels_that_become_ready_in_mid_request_change_no_token(
    tiny_target, decode, library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, kind: str, speculation: str
) -> None:
    loaded = tiny_target("qwen3")
    off = EngineConfig(max_sequences=1, kernels="off")
    plain = decode(Engine(loaded, off), [replace(r, speculate=False) for r in requests()])
    kernels = LateKernels(library)
    monkeypatch.setattr(select, "kernels", kernels)
    engine = Engine(loaded, EngineConfig(max_sequences=4, prefill_rows_busy=8, speculation=speculation))
    sizes = SIZES if kind == "amphista" else {"window": 1}
    engine.set_drafter(new_drafter(kind, loaded.target, **sizes), "v")
    runners = []

    def build_ends(step: int) -> None:
        runners.append(type(engine._runner))
        if step == 7:
            thread = preparation(engine)
            kernels.ready.set()
            thread.join()

    assert decode(engine, requests(), build_ends) == plain
    assert runners[:8] == [EagerRunner] * 8
    assert set(runners[8:]) == {NativeRunner}, "the step after the build runs compiled code"


def test_a_build_that_fails_leaves_torch(tiny_target, decode, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny_target()
    expected = decode(Engine(loaded, EngineConfig(kernels="off")), requests())
    kernels = LateKernels(None)
    monkeypatch.setattr(select, "kernels", kernels)
    engine = Engine(loaded)
    thread = preparation(engine)
    kernels.ready.set()
    thread.join()
    assert decode(engine, requests()) == expected
    assert isinstance(engine._runner, EagerRunner)


def test_a_drafter_that_comes_before_the_upgrade_is_drafted_with_after_it(
    tiny_target, decode, library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ready is not yet upgraded: until the next step everything belongs to torch."""
    loaded = tiny_target()
    kernels = LateKernels(library)
    monkeypatch.setattr(select, "kernels", kernels)
    engine = Engine(loaded)
    thread = preparation(engine)
    kernels.ready.set()
    thread.join()
    engine.set_drafter(new_drafter("amphista", loaded.target, **SIZES), "v")
    assert engine._runners.kernel == "eager"
    decode(engine, requests()[:1])
    assert engine._runners.kernel == "native"
    assert isinstance(engine._runner, NativeRunner)


def test_an_engine_says_what_runs_it_and_on_how_many_threads(
    tiny_target, decode, library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's number is that of the engine's own thread: elsewhere torch may answer differently."""
    kernels = LateKernels(library)
    monkeypatch.setattr(select, "kernels", kernels)
    with monkeypatch.context() as patch:
        patch.setattr("torch.get_num_threads", lambda: 7)
        engine = Engine(tiny_target(), EngineConfig(threads=3, speculation="off"))
    assert (engine.kernel, engine.threads) == ("eager", 7)
    thread = preparation(engine)
    kernels.ready.set()
    thread.join()
    decode(engine, requests()[:1])
    assert (engine.kernel, engine.threads) == ("native", 3)
