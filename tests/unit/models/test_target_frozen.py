"""Frozen weights: equal results on every path, nothing stale, nothing that training can't use."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from online_draft.models.config import ARCHITECTURES, Architecture, TargetConfig
from online_draft.models.frozen import PACKED_ROWS, FrozenLinear, FrozenNorm, can_pack
from online_draft.models.loading import random_target


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, PACKED_ROWS - 1, PACKED_ROWS, 17])
def test_packed_and_plain_products_agree(rows: int, bias: bool) -> None:
    weight = torch.randn(40, 24, generator=generator())
    offset = torch.randn(40, generator=generator(1)) if bias else None
    x = torch.randn(rows, 24, generator=generator(2))
    expected = functional.linear(x, weight, offset)
    for pack in (False, True):
        linear = FrozenLinear(weight, offset, pack)
        torch.testing.assert_close(linear(x), expected, rtol=0, atol=1e-5)
        residual = torch.ones(rows, 40)
        linear.add_to(residual, x)
        torch.testing.assert_close(residual, expected + 1, rtol=0, atol=1e-5)


def test_only_float32_on_the_cpu_is_packed() -> None:
    assert not can_pack(torch.zeros(2, 2, dtype=torch.float64))
    assert not can_pack(torch.zeros(2, 2, dtype=torch.bfloat16))
    assert not can_pack(torch.zeros(2, 2, device="meta"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 1e4])
def test_the_lean_norm_equals_torchs(dtype: torch.dtype, scale: float) -> None:
    weight = torch.rand(24, generator=generator()).to(dtype)
    x = (torch.randn(3, 2, 24, generator=generator(1)) * scale).to(dtype)
    expected = functional.rms_norm(x.double(), (24,), weight.double(), 1e-5).to(dtype)
    torch.testing.assert_close(FrozenNorm(weight, 1e-5)(x), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_seed_gives_the_same_weights_in_every_dtype(architecture: Architecture) -> None:
    config = TargetConfig.tiny(architecture)
    single, double = random_target(config, 5), random_target(config, 5, torch.float64)
    for ours, theirs in zip(single.parameters(), double.parameters(), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=1e-7)
        assert not ours.requires_grad
    assert not torch.equal(random_target(config, 6).embedding, single.embedding)


@torch.no_grad()
def test_random_logits_are_as_spread_as_asked_and_depend_on_the_context() -> None:
    target = random_target(TargetConfig.tiny(tie=True), 1, logit_scale=4.0)
    tokens = torch.randint(0, 97, (4, 16), generator=generator())
    lengths = torch.full((4,), 16)
    logits = target.logits(target.prefill_hidden(tokens, lengths))
    assert 2.5 < float(logits.std()) < 6.0
    changed = tokens.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 97
    other = target.logits(target.prefill_hidden(changed, lengths))
    assert float((other[:, -1] - logits[:, -1]).abs().max()) > 0.1


@torch.no_grad()
def test_weights_changed_after_the_first_use_count_after_thawing_and_after_conversion() -> None:
    target = random_target(TargetConfig.tiny(), 2)
    tokens, lengths = torch.arange(8)[None], torch.tensor([8])
    before = target.prefill_hidden(tokens, lengths)
    target.norm.mul_(2)
    target.thaw()
    torch.testing.assert_close(target.prefill_hidden(tokens, lengths), 2 * before)
    wide = target.to(torch.float64).prefill_hidden(tokens, lengths)
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), 2 * before, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_used_target_can_be_copied() -> None:
    target = random_target(TargetConfig.tiny(), 2)
    tokens, lengths = torch.arange(8)[None], torch.tensor([8])
    expected = target.prefill_hidden(tokens, lengths)
    assert torch.equal(copy.deepcopy(target).prefill_hidden(tokens, lengths), expected)


def test_hidden_states_made_without_grad_can_feed_training_even_after_inference_mode() -> None:
    target = random_target(TargetConfig.tiny(), 3)
    tokens, lengths = torch.arange(6)[None], torch.tensor([6])
    with torch.inference_mode():
        target.logits(target.prefill_hidden(tokens, lengths))
    with torch.no_grad():
        hidden = target.prefill_hidden(tokens, lengths)
    head = torch.nn.Linear(hidden.shape[-1], hidden.shape[-1])
    loss = target.logits(head(hidden)).square().mean()
    loss.backward()
    assert head.weight.grad is not None
    assert head.weight.grad.abs().sum() > 0


def test_tied_and_untied_heads() -> None:
    tied, untied = random_target(TargetConfig.tiny(tie=True)), random_target(TargetConfig.tiny(tie=False))
    assert tied.lm_head_VF is tied.embedding_VF
    assert untied.lm_head_VF is not untied.embedding_VF
    ids = torch.tensor([[3, 4]])
    assert torch.equal(tied.embed(ids), tied.embedding_VF[ids])
    assert tied.dtype == torch.float32
    assert tied.device.type == "cpu"
