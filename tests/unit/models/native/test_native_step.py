"""Compiled code computes what torch computes, whatever the shapes, and whatever else is in the batch."""

from __future__ import annotations

import ctypes
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from online_draft.decoding.noise import gumbel, noise_key
from online_draft.models.amphista import Amphista, AmphistaConfig
from online_draft.models.config import Architecture, TargetConfig
from online_draft.models.kv import KVCache
from online_draft.models.loading import random_target
from online_draft.models.medusa import Medusa, MedusaConfig
from online_draft.models.native.amphista import NativeAmphista
from online_draft.models.native.backend import NativeBackend, supports
from online_draft.models.native.medusa import NativeMedusa
from online_draft.models.native.pack import Packing, fits_bfloat16
from online_draft.models.native.pool import Pool
from online_draft.models.native.target import FlatBatch, NativeTarget
from online_draft.models.ring import FeatureRing
from online_draft.models.target import Target

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def odd_target(family: Architecture, dtype: torch.dtype, seed: int = 0) -> Target:
    """Sizes that aren't multiples of the kernels' sixteen lanes."""
    config = replace(TargetConfig.tiny(family, False, 250), hidden_size=44, intermediate_size=70, head_dim=22)
    return random_target(config, seed, dtype)


def prompt(target: Target, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, target.config.vocab_size, count)


def causal(tokens: np.ndarray, sequence: int = 0, length: int = 0) -> FlatBatch:
    parents = np.full(len(tokens), -1, dtype=np.int32)
    return FlatBatch(tokens, parents, np.array([[sequence, length, len(tokens), 0, 0]]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("odd", [False, True])
def test_step_equals_torch_in_float64(library: ctypes.CDLL, family: Architecture, odd: bool) -> None:
    target = (
        odd_target(family, torch.float64)
        if odd
        else random_target(TargetConfig.tiny(family, True, 256), 1, torch.float64)
    )
    native = NativeTarget(library, target, Pool(library, 2))
    tokens = prompt(target, 41, 0)
    table = torch.randperm(64, generator=torch.Generator().manual_seed(0)).unsqueeze(0)
    kv = KVCache(target.config, 64, target.dtype)
    native.step(causal(tokens[:20]), table, kv)
    hidden, logits, best = native.step(causal(tokens[20:], length=20), table, kv)
    with torch.inference_mode():
        expected = target.prefill_hidden(torch.from_numpy(tokens)[None], torch.tensor([41]))[0, 20:]
        torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-11)
        torch.testing.assert_close(logits, target.logits(expected), rtol=0, atol=1e-11)
    assert best == logits.argmax(-1).tolist()


@pytest.mark.parametrize(("heads", "kv_heads"), [(32, 1), (8, 8), (33, 1)])
def test_many_heads_share_one_or_torch_decodes(library: ctypes.CDLL, heads: int, kv_heads: int) -> None:
    """More than the scratch is made for is refused, never written behind it."""
    config = replace(
        TargetConfig.tiny("llama", False, 64), num_heads=heads, num_kv_heads=kv_heads, head_dim=4
    )
    target = random_target(config, 0, torch.float64)
    assert supports(target) == (heads <= 32)
    if not supports(target):
        return
    native = NativeTarget(library, target, Pool(library, 2))
    tokens = prompt(target, 40, 0)
    table = torch.arange(64).unsqueeze(0)
    hidden, _, _ = native.step(causal(tokens), table, KVCache(config, 64, target.dtype))
    with torch.inference_mode():
        expected = target.prefill_hidden(torch.from_numpy(tokens)[None], torch.tensor([40]))[0]
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_has_the_same_bits_in_every_batch(library: ctypes.CDLL, family: Architecture) -> None:
    """Tree rows, one by one, beside other sequences, on any number of threads: exactness in float32."""
    target = odd_target(family, torch.float32)
    tokens, other = prompt(target, 37, 1), prompt(target, 18, 2)
    path = prompt(target, 4, 3)
    table = torch.stack((torch.arange(64), torch.arange(64, 128)))
    one = NativeTarget(library, target, Pool(library, 1))
    kv = KVCache(target.config, 128)
    one.step(causal(tokens), table, kv)
    alone = []
    for depth, token in enumerate(path):
        single = FlatBatch(np.array([token]), np.array([-1], np.int32), np.array([[0, 37 + depth, 1, 1, 0]]))
        alone.append(one.step(single, table, kv)[1][0])
    for threads in (1, 2, 3):
        many = one.on(Pool(library, threads))
        kv = KVCache(target.config, 128)
        many.step(causal(tokens), table, kv)
        # root, wrong, then the path below the root with wrong nodes between.
        tree = np.array([path[0], 7, path[1], 9, path[2], path[3]])
        parents = np.concatenate((np.array([-1, 0, 0, 1, 2, 4]), np.full(18, -1))).astype(np.int32)
        groups = np.array([[0, 37, 6, 1, 0], [1, 0, 18, 0, 6]])
        batch = FlatBatch(np.concatenate((tree, other)), parents, groups)
        logits = many.step(batch, table, kv)[1]
        for row, expected in zip((0, 2, 4, 5), alone, strict=True):
            assert torch.equal(logits[row], expected)


def test_only_the_asked_rows_give_logits(library: ctypes.CDLL) -> None:
    target = odd_target("llama", torch.float64)
    native = NativeTarget(library, target, Pool(library, 2))
    batch, table = causal(prompt(target, 12, 4)), torch.arange(16).unsqueeze(0)
    everything = native.step(batch, table, KVCache(target.config, 16, target.dtype))[1]
    batch.logit_rows_M = np.array([3, 11])
    some = native.step(batch, table, KVCache(target.config, 16, target.dtype))[1]
    assert torch.equal(some, everything[[3, 11]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hidden_rows_give_the_logits_of_their_step(library: ctypes.CDLL, dtype: torch.dtype) -> None:
    target = odd_target("llama", dtype)
    native = NativeTarget(library, target, Pool(library, 2))
    batch, table = causal(prompt(target, 12, 4)), torch.arange(16).unsqueeze(0)
    hidden, logits, _ = native.step(batch, table, KVCache(target.config, 16, dtype))
    assert torch.equal(native.logits(hidden), logits)
    assert torch.equal(native.logits(hidden[3:8]), logits[3:8])
    assert torch.equal(native.logits(hidden[::5]), logits[::5]), "rows needn't be neighbours"
    assert native.logits(hidden[:0]).shape == (0, 250)


def drafter_for(target: Target, seed: int, **sizes: object) -> Amphista:
    torch.manual_seed(seed)
    config = AmphistaConfig(
        **{
            "hidden_size": target.config.hidden_size,
            "vocab_size": target.config.vocab_size,
            "attention_heads": 2,
            "intermediate_size": 24,
            "stages": 2,
            "window": 24,
            "chunk": 4,
            "markov_rank": 5,
            **sizes,
        }
    )
    drafter = Amphista(config).to(target.dtype)
    drafter.start_from(target)
    with torch.no_grad():
        for parameter in drafter.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return drafter


@pytest.mark.parametrize(
    "sizes",
    [{}, {"stages": 1}, {"stages": 0}, {"sources": (1, 0, 2, 0, 1)}, {"block_layers": 2}, {"markov_rank": 0}],
)
def test_draft_equals_torch_step_by_step(library: ctypes.CDLL, sizes: dict[str, object]) -> None:
    target = odd_target("llama", torch.float64)
    drafter = drafter_for(target, 0, **sizes)
    backend = NativeBackend(library, target, threads=2)
    torch_state, state = drafter.new_state(4), drafter.new_state(4)
    native = NativeAmphista(backend.target.packing, drafter, state, backend.pool, backend.target.lm_head)
    ring = FeatureRing(4, 32, 44, target.dtype)
    rng = random.Random(0)
    generator = torch.Generator().manual_seed(0)

    def feed(slot: int, rows: int) -> None:
        hidden = torch.randn(rows, 44, generator=generator, dtype=target.dtype)
        ring.append(slot, hidden, torch.randint(0, 250, (rows,), generator=generator))

    for slot in range(4):
        feed(slot, rng.randint(1, 60))
    for _ in range(30):
        slots = rng.sample(range(4), rng.randint(1, 4))
        expected = drafter.draft(torch_state, ring, slots).base_logits_SKV
        torch.testing.assert_close(native.logits(ring, slots), expected, rtol=0, atol=1e-10)
        for slot in slots:
            feed(slot, rng.randint(0, 7))
        if rng.random() < 0.2:
            ring.reset(slots[0])
            ring.rebase(slots[0], 16)
            feed(slots[0], 3)


@pytest.mark.parametrize("scored", [0, 53])
def test_medusa_heads_equal_torch(library: ctypes.CDLL, scored: int) -> None:
    target = odd_target("llama", torch.float64)
    torch.manual_seed(0)
    drafter = Medusa(MedusaConfig(44, 250, num_heads=3, draft_vocab_size=scored)).to(target.dtype)
    drafter.start_from(target)
    with torch.no_grad():
        for parameter in drafter.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    backend = NativeBackend(library, target, threads=2)
    native = NativeMedusa(backend.target.packing, drafter, backend.pool)
    ring = FeatureRing(4, 8, 44, target.dtype)
    for slot, rows in enumerate((1, 5, 8, 21)):
        ring.append(slot, torch.randn(rows, 44, dtype=target.dtype), torch.arange(rows))
    for slots in ([0], [3, 1], [2, 0, 3, 1]):
        expected = drafter.draft(drafter.new_state(4), ring, slots).base_logits_SKV
        torch.testing.assert_close(native.logits(ring, slots), expected, rtol=0, atol=1e-11)
    drafting = backend.drafting(drafter, drafter.new_state(4))
    token = drafting.trees(ring, [3, 1], [5, 9], 3, 1)[0]
    best = drafter.draft(drafter.new_state(4), ring, [3, 1]).base_logits_SKV.argmax(-1)
    ids = best if drafter.draft_ids_V is None else drafter.draft_ids_V[best]
    assert token.tolist() == ids.tolist(), "a chain of width 1 has each head's best token"


def test_swapped_weights_are_seen(library: ctypes.CDLL) -> None:
    """What a swap does: new weights, a new serving state, compiled equals eager."""
    target = odd_target("llama", torch.float64)
    backend = NativeBackend(library, target, threads=1)
    ring = FeatureRing(1, 32, 44, target.dtype)
    ring.append(0, torch.randn(9, 44, dtype=target.dtype), torch.arange(9))
    seen = []
    for seed in (1, 2):
        drafter = drafter_for(target, seed)
        drafting = backend.drafting(drafter, drafter.new_state(1))
        drafting.trees(ring, [0], [5], 4, 2)
        state = drafter.new_state(1)
        native = NativeAmphista(backend.target.packing, drafter, state, backend.pool, backend.target.lm_head)
        eager = drafter.draft(drafter.new_state(1), ring, [0]).base_logits_SKV
        torch.testing.assert_close(native.logits(ring, [0]), eager, rtol=0, atol=1e-10)
        seen.append(eager)
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)


def test_swaps_pack_the_lm_head_once_for_all_engines(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 drafters read it as bfloat16, also where the target's own weights don't fit that."""
    target = odd_target("llama", torch.float32)
    assert not fits_bfloat16(target.lm_head_VF)
    backends = [NativeBackend(library, target, threads=threads) for threads in (1, 2)]
    packed = []
    plain = Packing.plain

    def counted(packing: Packing, weight: torch.Tensor) -> torch.Tensor:
        packed.append(tuple(weight.shape))
        return plain(packing, weight)

    monkeypatch.setattr(Packing, "plain", counted)
    for seed in range(3):
        drafter = drafter_for(target, seed)
        for backend in backends:
            backend.drafting(drafter, drafter.new_state(1))
    assert packed.count((250, 44)) == 1
    expected = Packing(library, torch.float32, half=True).plain(target.lm_head_VF)
    assert torch.equal(backends[0].target.drafting_head(), expected)
    double = NativeBackend(library, odd_target("llama", torch.float64), threads=1).target
    assert double.drafting_head() is double.lm_head, "no second copy where the types are the same"


def test_target_update_needs_a_new_backend_and_gets_it(library: ctypes.CDLL) -> None:
    target = odd_target("llama", torch.float64)
    batch, table = causal(prompt(target, 9, 5)), torch.arange(16).unsqueeze(0)
    NativeBackend(library, target, threads=1)
    for parameter in target.parameters():
        parameter.mul_(1.01)
    target.thaw()
    fresh = NativeBackend(library, target, threads=1).target
    after = fresh.step(batch, table, KVCache(target.config, 16, target.dtype))[0]
    with torch.inference_mode():
        tokens = torch.from_numpy(batch.tokens_N)[None]
        expected = target.prefill_hidden(tokens, torch.tensor([9]))[0]
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-11)


def test_the_embedding_is_shared_and_outlives_a_conversion_of_the_target(library: ctypes.CDLL) -> None:
    target = odd_target("llama", torch.float64)
    batch, table = causal(prompt(target, 9, 5)), torch.arange(16).unsqueeze(0)
    packed = NativeTarget(library, target, Pool(library, 1))
    assert target.embedding.data_ptr() in packed._weights.pointers()
    before = packed.step(batch, table, KVCache(target.config, 16, torch.float64))[1]
    target.float()
    assert target.embedding.data_ptr() not in packed._weights.pointers()
    assert torch.equal(packed.step(batch, table, KVCache(packed.config, 16, torch.float64))[1], before)


def test_commit_equals_torch(library: ctypes.CDLL) -> None:
    target = odd_target("llama", torch.float32)
    backend = NativeBackend(library, target, threads=1)
    kv, expected = KVCache(target.config, 32), KVCache(target.config, 32)
    kv.pairs.normal_(generator=torch.Generator().manual_seed(0))
    expected.pairs.copy_(kv.pairs)
    ring, expected_ring = FeatureRing(2, 8, 44), FeatureRing(2, 8, 44)
    hidden = torch.randn(6, 44)
    # Sources and destinations overlap.
    expected.move(torch.tensor([5, 6, 9]), torch.tensor([4, 5, 6]))
    expected_ring.append_many([1, 0], [2, 1], hidden[[0, 3, 5]], torch.tensor([7, 8, 9]))
    places = ring.claim([1, 0], [2, 1])
    backend.commit.apply(kv, [5, 6, 9], [4, 5, 6], ring, places, hidden, [0, 3, 5], [7, 8, 9])
    assert torch.equal(kv.pairs, expected.pairs)
    assert torch.equal(ring.hidden_RF, expected_ring.hidden_RF)
    assert torch.equal(ring.next_tokens_R, expected_ring.next_tokens_R)
    assert ring.end == expected_ring.end


def test_packing_pads_with_zeros(library: ctypes.CDLL) -> None:
    weight = torch.arange(18 * 3, dtype=torch.float32).view(18, 3)
    panels = Packing(library, torch.float32, half=False).plain(weight).view(2, 3, 16)
    assert torch.equal(panels[0], weight[:16].t())
    assert torch.equal(panels[1, :, :2], weight[16:].t())
    assert not panels[1, :, 2:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sampling_equals_torch(library: ctypes.CDLL, dtype: torch.dtype) -> None:
    target = odd_target("llama", dtype)
    native = NativeTarget(library, target, Pool(library, 1))
    generator, tokens_V = torch.Generator().manual_seed(0), torch.arange(250)
    for index in range(500):
        temperature = (0.3, 0.7, 1.0, 1.5, 40.0)[index % 5]
        logits_V = 6 * torch.randn(250, generator=generator, dtype=dtype)
        key = noise_key(index, 0, 0, 3 * index)
        expected = (logits_V / temperature + gumbel([key], tokens_V)[0].to(dtype)).argmax()
        assert native.sample(logits_V, temperature, key) == int(expected)


def test_weights_that_fit_are_stored_in_half_the_bytes_without_changing_a_bit(library: ctypes.CDLL) -> None:
    target = odd_target("qwen3", torch.float32)
    assert not fits_bfloat16(target.lm_head_VF)
    whole = NativeTarget(library, target, Pool(library, 1))
    assert whole.lm_head.dtype == torch.float32
    for parameter in target.parameters():
        parameter.copy_(parameter.bfloat16())
    target.thaw()
    half = NativeTarget(library, target, Pool(library, 2))
    assert half.lm_head.dtype == torch.bfloat16
    batch, table = causal(prompt(target, 21, 6)), torch.arange(32).unsqueeze(0)
    logits = half.step(batch, table, KVCache(target.config, 32))[1]
    assert torch.equal(logits, repacked(library, target).step(batch, table, KVCache(target.config, 32))[1])


def repacked(library: ctypes.CDLL, target: Target) -> NativeTarget:
    """The same weights stored as float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("online_draft.models.native.target.fits_bfloat16", lambda *weights: False)
        return NativeTarget(library, target, Pool(library, 1))


def test_a_float32_drafter_is_stored_as_bfloat16_and_drafts_nearly_the_same(library: ctypes.CDLL) -> None:
    target = odd_target("llama", torch.float32)
    drafter = drafter_for(target, 3)
    backend = NativeBackend(library, target, threads=1)
    state, ring = drafter.new_state(1), FeatureRing(1, 32, 44)
    ring.append(0, torch.randn(20, 44, generator=torch.Generator().manual_seed(0)), torch.arange(20))
    native = NativeAmphista(Packing(library, torch.float32, half=True), drafter, state, backend.pool)
    expected = drafter.draft(drafter.new_state(1), ring, [0]).base_logits_SKV
    assert (native.logits(ring, [0]) - expected).abs().mean() < 0.02 * expected.abs().mean()
