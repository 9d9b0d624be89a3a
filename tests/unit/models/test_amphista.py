from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from online_draft.errors import ArtifactError, ConfigError
from online_draft.models.amphista import Amphista, AmphistaConfig
from online_draft.models.ring import FeatureRing

CONFIG = AmphistaConfig(
    hidden_size=16,
    vocab_size=40,
    num_heads=4,
    stages=2,
    window=12,
    attention_heads=2,
    intermediate_size=24,
    markov_rank=4,
    chunk=4,
    max_positions=200,
)


class Weights:
    def __init__(self, vocab: int = 40, size: int = 16) -> None:
        generator = torch.Generator().manual_seed(1)
        self.embedding_VF = torch.randn(vocab, size, generator=generator, dtype=torch.float64)
        self.lm_head_VF = torch.randn(vocab, size, generator=generator, dtype=torch.float64)
        self.norm = torch.full((size,), 3.0, dtype=torch.float64)

    def logits(self, hidden_NF: Tensor) -> Tensor:
        return hidden_NF @ self.lm_head_VF.T

    def to(self, dtype: torch.dtype) -> Weights:
        self.embedding_VF = self.embedding_VF.to(dtype)
        self.lm_head_VF = self.lm_head_VF.to(dtype)
        self.norm = self.norm.to(dtype)
        return self


def make(config: AmphistaConfig = CONFIG, dtype: torch.dtype = torch.float64) -> Amphista:
    """A drafter with every weight random, so that no part is the identity."""
    torch.manual_seed(0)
    drafter = Amphista(config).to(dtype)
    with torch.no_grad():
        for parameter in drafter.parameters():
            parameter.normal_(std=0.3)
    drafter.bind(Weights().to(dtype))
    return drafter


def sequence(length: int, dtype: torch.dtype = torch.float64, seed: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(length, 16, generator=generator, dtype=torch.float64).to(dtype)
    return hidden, torch.randint(0, 40, (length,), generator=generator)


def trained_view(drafter: Amphista, hidden: Tensor, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        features = drafter.context(hidden[None], tokens[None])
        position = torch.arange(hidden.shape[0])
        return drafter.heads(drafter.at(features, torch.zeros_like(position), position))


def wide(config: AmphistaConfig, hidden: Tensor) -> Tensor:
    """Hidden rows as a drafter with `feature_layers` reads them: other layers' rows beside them."""
    generator = torch.Generator().manual_seed(9)
    shape = (*hidden.shape[:-1], len(config.feature_layers) * 16)
    others = torch.randn(shape, generator=generator, dtype=torch.float64).to(hidden.dtype)
    return torch.cat((hidden, others), dim=-1)


VARIANTS: list[Callable[[AmphistaConfig], AmphistaConfig]] = [
    lambda c: c,
    lambda c: replace(c, sources=(1, 1, 0, 0)),
    lambda c: replace(c, sources=(2, 1, 0, 0), block_layers=2),
    lambda c: replace(c, stages=1, markov_rank=0),
    lambda c: replace(c, stages=0, block_layers=0),
    lambda c: replace(c, block_context=5),
    lambda c: replace(c, block_context=12, block_layers=2, sources=(2, 1, 0, 0)),
    lambda c: replace(c, block_context=3, stages=0),
]


@pytest.mark.parametrize("variant", range(len(VARIANTS)))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_followed_rebuilt_and_trained_views_are_the_same(
    variant: int, dtype: torch.dtype, tolerance: float
) -> None:
    drafter = make(VARIANTS[variant](CONFIG), dtype)
    hidden, tokens = sequence(60, dtype)
    expected = trained_view(drafter, hidden, tokens)
    ring = FeatureRing(3, 12, 16, dtype)
    state = drafter.new_state(3)
    choose = random.Random(5)
    at = 0
    while at < 60:
        count = min(choose.choice([1, 1, 2, 3, 4, 7, 20]), 60 - at)
        ring.append(1, hidden[at : at + count], tokens[at : at + count])
        at += count
        followed = drafter.draft(state, ring, [1]).base_logits_SKV
        rebuilt = drafter.draft(drafter.new_state(3), ring, [1]).base_logits_SKV
        torch.testing.assert_close(followed[0], expected[at - 1], rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(rebuilt[0], expected[at - 1], rtol=tolerance, atol=tolerance)


READ_ONLY: list[Callable[[AmphistaConfig], AmphistaConfig]] = [
    lambda c: replace(c, feature_layers=(1, 3)),
    lambda c: replace(c, feature_layers=(2,), block_context=4, stages=1),
]
"""Variants that train and replay but don't serve."""


@pytest.mark.parametrize("variant", range(len(VARIANTS) + len(READ_ONLY)))
def test_a_head_sees_no_row_and_no_token_ahead_of_its_anchor(variant: int) -> None:
    config = (VARIANTS + READ_ONLY)[variant](CONFIG)
    drafter = make(config)
    hidden, tokens = sequence(40)
    hidden = wide(config, hidden)
    anchors = torch.tensor([[29, 4, 17]])
    parents = torch.randint(0, 40, (1, 3, 4), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = drafter.head_logits(hidden[None], tokens[None], anchors, parents)
        for index, anchor in enumerate(anchors[0].tolist()):
            later, other = hidden.clone(), tokens.clone()
            later[anchor + 1 :] = -1.0
            other[anchor + 1 :] = (other[anchor + 1 :] + 1) % 40
            changed = drafter.head_logits(later[None], other[None], anchors, parents)
            assert torch.equal(changed[0, index], expected[0, index])
            # What is at the anchor itself does matter.
            later[anchor] = -1.0
            changed = drafter.head_logits(later[None], other[None], anchors, parents)
            assert not torch.isclose(changed[0, index], expected[0, index]).all(-1).any()


@pytest.mark.parametrize("variant", range(len(VARIANTS) + len(READ_ONLY)))
def test_heads_of_one_anchor_do_not_see_those_of_another(variant: int) -> None:
    config = (VARIANTS + READ_ONLY)[variant](CONFIG)
    drafter = make(config)
    rows = [sequence(40, seed=seed) for seed in (3, 4)]
    hidden = torch.stack([wide(config, row[0]) for row in rows]).requires_grad_()
    tokens = torch.stack([row[1] for row in rows])
    anchors, parents = torch.tensor([[12, 39], [12, 39]]), torch.zeros(2, 2, 4, dtype=torch.int64)
    logits = drafter.head_logits(hidden, tokens, anchors, parents)
    (slope,) = torch.autograd.grad(logits[1, 1].square().sum(), hidden)
    touched = slope.abs().sum(-1).nonzero().tolist()
    reach = config.window if config.stages or config.block_context else 1
    assert [1, 39] in touched
    assert all(row == 1 and position > 39 - reach for row, position in touched)


@pytest.mark.parametrize("variant", range(len(VARIANTS) + len(READ_ONLY)))
def test_a_head_depends_on_its_own_parent_only(variant: int) -> None:
    config = (VARIANTS + READ_ONLY)[variant](CONFIG)
    drafter = make(config)
    hidden, tokens = sequence(20)
    hidden = wide(config, hidden)
    anchors, parents = torch.tensor([[9, 15]]), torch.zeros(1, 2, 4, dtype=torch.int64)
    other = parents.clone()
    other[0, 1, 2] = 7
    with torch.no_grad():
        first, second = (
            drafter.head_logits(hidden[None], tokens[None], anchors, p) for p in (parents, other)
        )
    changed = (first != second).any(-1)[0].nonzero().tolist()
    assert changed == ([[1, 2]] if config.markov_rank else [])


def test_records_packed_in_one_row_do_not_see_each_other() -> None:
    for variant in VARIANTS + READ_ONLY:
        config = variant(CONFIG)
        drafter = make(config)
        (one, one_tokens), (two, two_tokens) = sequence(9), sequence(14, seed=6)
        first = torch.tensor([[0] * 9 + [9] * 14])
        anchors, parents = torch.tensor([[8, 10, 22]]), torch.zeros(1, 3, 4, dtype=torch.int64)
        one, two = wide(config, one), wide(config, two)
        with torch.no_grad():
            packed = drafter.head_logits(
                torch.cat((one, two))[None],
                torch.cat((one_tokens, two_tokens))[None],
                anchors,
                parents,
                first,
            )
            alone = [
                drafter.head_logits(rows[None], tokens[None], torch.tensor([[at]]), parents[:, :1])
                for rows, tokens, at in (
                    (one, one_tokens, 8),
                    (two, two_tokens, 1),
                    (two, two_tokens, 13),
                )
            ]
        torch.testing.assert_close(packed, torch.cat(alone, dim=1))


def test_a_drafter_that_reads_several_layers_says_that_it_cannot_serve() -> None:
    drafter = make(replace(CONFIG, feature_layers=(1, 2)))
    with pytest.raises(ConfigError, match="feature_layers"):
        drafter.new_state(1)


def test_an_untrained_mix_of_layers_changes_nothing() -> None:
    torch.manual_seed(0)
    config = replace(CONFIG, feature_layers=(1, 2))
    mixed, hidden = Amphista(config).double(), sequence(20)
    usual = Amphista(CONFIG).double()
    usual.load_state_dict({n: w for n, w in mixed.state_dict().items() if not n.startswith("mix")})
    with torch.no_grad():
        for drafter, rows in ((mixed, wide(config, hidden[0])), (usual, hidden[0])):
            drafter.bind(Weights())
            features = drafter.context(rows[None], hidden[1][None])
            if drafter is mixed:
                expected = features
        torch.testing.assert_close(features, expected)


def test_kernels_are_asked_for_what_they_have() -> None:
    assert CONFIG.compiled
    assert not replace(CONFIG, block_context=2).compiled
    assert not replace(CONFIG, feature_layers=(1,)).compiled


@pytest.mark.parametrize("context", [0, 7])
def test_slots_of_one_call_do_not_disturb_each_other(context: int) -> None:
    drafter = make(replace(CONFIG, block_context=context))
    sequences = [sequence(50, seed=seed) for seed in range(4)]
    expected = [trained_view(drafter, *pair) for pair in sequences]
    ring = FeatureRing(4, 12, 16, torch.float64)
    state = drafter.new_state(4)
    at = [0] * 4
    choose = random.Random(0)
    for _ in range(25):
        slots = choose.sample(range(4), choose.randint(1, 4))
        counts = [min(choose.randint(0 if at[slot] else 1, 6), 50 - at[slot]) for slot in slots]
        rows = [slice(at[slot], at[slot] + count) for slot, count in zip(slots, counts, strict=True)]
        hidden = torch.cat([sequences[slot][0][row] for slot, row in zip(slots, rows, strict=True)])
        tokens = torch.cat([sequences[slot][1][row] for slot, row in zip(slots, rows, strict=True)])
        ring.append_many(slots, counts, hidden, tokens)
        for slot, count in zip(slots, counts, strict=True):
            at[slot] += count
        drafted = drafter.draft(state, ring, slots).base_logits_SKV
        for row, slot in enumerate(slots):
            torch.testing.assert_close(drafted[row], expected[slot][at[slot] - 1])


def test_a_second_draft_without_new_rows_is_the_same() -> None:
    drafter = make()
    ring = FeatureRing(1, 12, 16, torch.float64)
    state = drafter.new_state(1)
    ring.append(0, *sequence(9))
    first = drafter.draft(state, ring, [0]).base_logits_SKV
    torch.testing.assert_close(first, drafter.draft(state, ring, [0]).base_logits_SKV)
    state.invalidate(0)
    torch.testing.assert_close(first, drafter.draft(state, ring, [0]).base_logits_SKV)


@pytest.mark.parametrize("context", [0, 12])
def test_a_reused_slot_knows_nothing_of_the_sequence_before(context: int) -> None:
    drafter = make(replace(CONFIG, block_context=context))
    ring = FeatureRing(1, 12, 16, torch.float64)
    state = drafter.new_state(1)
    ring.append(0, *sequence(20, seed=8))
    drafter.draft(state, ring, [0])
    ring.reset(0)
    hidden, tokens = sequence(20)
    ring.append(0, hidden[:5], tokens[:5])
    drafted = drafter.draft(state, ring, [0]).base_logits_SKV[0]
    torch.testing.assert_close(drafted, trained_view(drafter, hidden, tokens)[4])
    ring.append(0, hidden[5:], tokens[5:])
    drafted = drafter.draft(state, ring, [0]).base_logits_SKV[0]
    torch.testing.assert_close(drafted, trained_view(drafter, hidden, tokens)[-1])


@pytest.mark.parametrize("context", [0, 6])
def test_only_relative_positions_matter_after_a_rebase(context: int) -> None:
    drafter = make(replace(CONFIG, block_context=context))
    hidden, tokens = sequence(15)
    ring = FeatureRing(1, 12, 16, torch.float64)
    ring.rebase(0, 100)
    state = drafter.new_state(1)
    for at in range(15):
        ring.append(0, hidden[at : at + 1], tokens[at : at + 1])
        drafted = drafter.draft(state, ring, [0]).base_logits_SKV[0]
        # The rotation table is float32.
        torch.testing.assert_close(drafted, trained_view(drafter, hidden, tokens)[at], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stages", [1, 2])
def test_a_row_depends_on_its_window_and_on_nothing_ahead(stages: int) -> None:
    drafter = make(replace(CONFIG, stages=stages))
    hidden, tokens = sequence(40)
    hidden.requires_grad_()
    drafter.heads(drafter.context(hidden[None], tokens[None])[0, 25:26]).square().sum().backward()
    assert hidden.grad is not None
    touched = hidden.grad.abs().sum(-1).nonzero().flatten().tolist()
    reach = 12 if stages == 1 else 11
    assert touched == list(range(26 - reach, 26))
    changed = tokens.clone()
    changed[26:] = (changed[26:] + 1) % 40
    changed[: 26 - 12] = 0
    with torch.no_grad():
        assert torch.equal(
            drafter.context(hidden[None], tokens[None])[0, 25],
            drafter.context(hidden[None], changed[None])[0, 25],
        )


def test_the_block_sees_only_the_heads_of_its_own_row() -> None:
    drafter = make()
    features = torch.randn(5, 1, 16, dtype=torch.float64, requires_grad=True)
    drafter.heads(features)[2].square().sum().backward()
    assert features.grad is not None
    assert features.grad.abs().sum((1, 2)).nonzero().flatten().tolist() == [2]


def test_heads_see_each_other_only_through_the_block() -> None:
    for layers, expected in ((1, [0, 1, 2, 3]), (0, [2])):
        drafter = make(replace(CONFIG, block_layers=layers))
        drafter.heads(torch.randn(1, 1, 16, dtype=torch.float64))[0, 2].square().sum().backward()
        assert drafter.place_KF.grad is not None
        assert drafter.place_KF.grad.abs().sum(1).nonzero().flatten().tolist() == expected


def test_training_logits_at_anchors_equal_the_draft_with_its_parents() -> None:
    drafter = make()
    hidden, tokens = sequence(30)
    anchors = torch.tensor([[4, 20, 27]])
    parents = torch.randint(0, 40, (1, 3, 4))
    with torch.no_grad():
        logits = drafter.head_logits(hidden[None], tokens[None], anchors, parents)
    for index, anchor in enumerate((4, 20, 27)):
        ring = FeatureRing(1, 12, 16, torch.float64)
        ring.append(0, hidden[: anchor + 1], tokens[: anchor + 1])
        draft = drafter.draft(drafter.new_state(1), ring, [0])
        for head in range(4):
            given_parent = draft.log_probs(head, parents[:, index, head : head + 1])
            torch.testing.assert_close(given_parent[0, 0], logits[0, index, head].log_softmax(-1))


def test_without_markov_term_log_probs_do_not_depend_on_the_parent() -> None:
    drafter = make(replace(CONFIG, markov_rank=0))
    ring = FeatureRing(1, 12, 16, torch.float64)
    ring.append(0, *sequence(9))
    draft = drafter.draft(drafter.new_state(1), ring, [0])
    assert draft.log_probs(1, torch.tensor([[3, 4, 5]])).shape == (1, 1, 40)


def test_an_untrained_drafter_repeats_the_target_at_every_head() -> None:
    torch.manual_seed(0)
    drafter = Amphista(replace(CONFIG, stages=0)).double()
    weights = Weights()
    drafter.start_from(weights)
    hidden = torch.randn(2, 1, 16, dtype=torch.float64)
    hidden = 3 * hidden / hidden.pow(2).mean(-1, keepdim=True).sqrt()
    with torch.no_grad():
        drafter.place_KF.zero_()
        logits = drafter.heads(hidden)
    torch.testing.assert_close(
        logits, (0.5 * hidden @ weights.lm_head_VF.T).expand(2, 4, 40), rtol=1e-4, atol=1e-4
    )


def test_a_target_of_another_size_is_refused() -> None:
    with pytest.raises(ArtifactError, match="vocabulary x hidden size"):
        Amphista(CONFIG).bind(Weights(vocab=41))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stages", 3),
        ("sources", (0, 1)),
        ("sources", (0, 0, 0, 3)),
        ("attention_heads", 5),
        ("window", 3),
        ("block_context", 13),
        ("block_context", -1),
        ("feature_layers", (0, 2)),
    ],
)
def test_a_wrong_size_names_its_field(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(CONFIG, **{field: value})  # type: ignore[arg-type]


def test_a_ring_shorter_than_the_window_is_refused() -> None:
    ring = FeatureRing(1, 11, 16, torch.float64)
    ring.append(0, *sequence(5))
    drafter = make()
    with pytest.raises(ConfigError, match="feature_window"):
        drafter.draft(drafter.new_state(1), ring, [0])
