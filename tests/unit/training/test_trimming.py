"""Heads that score some tokens only: same outputs, and the losses that are left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.drafting.tree import build_trees
from online_draft.decoding.engine import Engine
from online_draft.errors import ArtifactError, ConfigError
from online_draft.models.artifact import load_drafter, new_drafter, save_drafter
from online_draft.models.drafter import Drafter
from online_draft.models.loading import LoadedTarget
from online_draft.models.trimming import retrimmed
from online_draft.training.features import TokenRecord, extract
from online_draft.training.losses import LOSS_KINDS
from online_draft.training.replay import mean_accepted_length, replayed_tau
from online_draft.training.trainer import Trainer, TrainerConfig
from online_draft.training.vocabulary import choose_draft_vocab, emitted_tokens, refreshed_vocab

SIZES = {
    "amphista": {"window": 32, "num_heads": 3, "intermediate_size": 32},
    "medusa": {"window": 1, "num_heads": 3},
}


def emitted(records: list[TokenRecord]) -> torch.Tensor:
    return torch.tensor(sorted({token for record in records for token in record.output_ids}))


def trained(
    kind: str, tiny: LoadedTarget, records: list[TokenRecord], ids: torch.Tensor | None, steps: int = 30
) -> Drafter:
    drafter = new_drafter(kind, tiny.target, draft_vocab=ids, **SIZES[kind])
    learner = Trainer(drafter, tiny.target, TrainerConfig(learning_rate=5e-3, warmup_steps=2))
    for _ in range(steps):
        learner.slice(records)
    return learner.candidate()


def decode(tiny: LoadedTarget, drafter: Drafter | None, kernels: str) -> tuple[list[list[int]], int]:
    engine = Engine(
        tiny,
        EngineConfig(max_sequences=3, feature_window=32, speculation="always", kernels=kernels),  # type: ignore[arg-type]
    )
    engine.set_drafter(drafter, "v1" if drafter is not None else None)
    outputs: list[list[int]] = [[] for _ in range(8)]
    for index in range(8):
        sampling = SamplingParams(temperature=0.9 * (index % 2), max_tokens=24, seed=index)
        prompt = tuple((7 * index + 3 * j) % 256 for j in range(3 + index % 5))
        engine.add(GenerationRequest(str(index), prompt, sampling))
    steps = 0
    while engine.has_work:
        steps += 1
        for output in engine.step():
            outputs[int(output.request_id)] += output.token_ids
    return outputs, steps


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("kernels", ["off", "wait"])
def test_outputs_are_those_of_plain_decoding(
    kind: str, kernels: str, tiny: LoadedTarget, greedy: list[TokenRecord], request: pytest.FixtureRequest
) -> None:
    if kernels == "wait":
        request.getfixturevalue("library")
    # Half of what is emitted can't be drafted.
    drafter = trained(kind, tiny, greedy, emitted(greedy)[::2])
    plain, plain_steps = decode(tiny, None, kernels)
    drafted, steps = decode(tiny, drafter, kernels)
    assert drafted == plain
    assert steps < plain_steps


@pytest.mark.parametrize("kind", SIZES)
def test_only_listed_tokens_are_drafted_under_their_own_ids(
    kind: str, tiny: LoadedTarget, greedy: list[TokenRecord]
) -> None:
    ids = emitted(greedy)[1::2]
    drafter = trained(kind, tiny, greedy, ids, steps=3)
    features = extract(tiny.target, greedy[:4])
    context = drafter.context(features.hidden_BTF, features.next_tokens_BT)
    draft = drafter.draft_from(context[:, 5])
    assert draft.base_logits_SKV.shape[-1] == len(ids)
    trees = build_trees(draft, features.tokens_BT[:, 6], 12, 6)
    assert set(trees.token_SN.flatten().tolist()) <= set(ids.tolist())
    # The same heads that score everything say the same of these tokens.
    whole = retrimmed(drafter, None)
    logits = whole.heads(context[:, 5])[..., ids]
    torch.testing.assert_close(logits, draft.base_logits_SKV, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", SIZES)
def test_a_vocabulary_that_holds_all_answers_drafts_as_well_as_the_whole(
    kind: str, tiny: LoadedTarget, greedy: list[TokenRecord]
) -> None:
    taus = [
        mean_accepted_length(replayed_tau(trained(kind, tiny, greedy, ids), tiny.target, greedy, nodes=8))
        for ids in (None, emitted(greedy))
    ]
    assert taus[1] > 1.3
    assert taus[1] >= taus[0] - 0.1


@pytest.mark.parametrize("loss", LOSS_KINDS)
def test_a_trimmed_loss_has_the_gradient_of_the_whole_loss_without_the_missing_part(
    loss: str, tiny: LoadedTarget, greedy: list[TokenRecord]
) -> None:
    """Against float64 formulas: q lives on the listed tokens, p is the target's, not normalised again."""
    record = greedy[0]
    ids = emitted([record])
    drafter = new_drafter("medusa", tiny.target, draft_vocab=ids, num_heads=1)
    learner = Trainer(drafter, tiny.target, TrainerConfig(loss=loss))  # type: ignore[arg-type]
    with torch.no_grad():
        drafter.get_parameter("vocabulary_KVF").mul_(0.6)
    total = learner.slice([record]).loss
    features = extract(tiny.target, [record])
    fresh = new_drafter("medusa", tiny.target, draft_vocab=ids, num_heads=1)
    with torch.no_grad():
        fresh.get_parameter("vocabulary_KVF").mul_(0.6)
    tokens, start = [*record.prompt_ids, *record.output_ids], len(record.prompt_ids)
    expected, kept = [], []
    place = {int(token): index for index, token in enumerate(ids)}
    for anchor in range(start - 1, len(tokens) - 2):
        with torch.no_grad():
            q = fresh.heads(features.hidden_BTF[:, anchor].unsqueeze(1))[0, 0].softmax(-1)
            p = tiny.target.logits(features.hidden_BTF[0, anchor + 1]).softmax(-1)[ids]
        kept.append(float(p.sum()))
        label = place[tokens[anchor + 2]]
        mean = 0.5 * (p + q)
        reward = (p > q).double()
        advantage = reward - (q * reward).sum()
        deviation = ((q * reward).sum() * (1 - (q * reward).sum())).clamp(min=0).sqrt() + 1e-6
        by_kind = {
            "ce": -q[label].log(),
            "kl": (p * (p / q).log()).sum(),
            "reverse_kl": (q * (q / p).log()).sum(),
            "js": 0.5 * ((p * (p / mean).log()).sum() + (q * (q / mean).log()).sum()),
            "tv": 0.5 * (p - q).abs().sum(),
            "tvd++": -(q * advantage / deviation).sum(),
            "overlap": -torch.minimum(p, q).sum().log(),
        }
        by_kind["kl+ce"] = by_kind["kl"] + by_kind["ce"]
        expected.append(float(by_kind[loss]))
    assert min(kept) < 0.99
    assert total == pytest.approx(np.mean(expected), rel=1e-6, abs=1e-9)


def test_labels_outside_are_not_learnt(tiny: LoadedTarget) -> None:
    without = torch.arange(1, 256)
    for label, learns in ((0, False), (3, True)):
        drafter = new_drafter("medusa", tiny.target, draft_vocab=without, num_heads=1)
        learner = Trainer(drafter, tiny.target, TrainerConfig(loss="ce"))
        metrics = learner.slice([TokenRecord((7, 8), (9, label))])
        assert metrics.tokens == 1
        assert (metrics.loss > 0) == (metrics.grad_norm > 0) == learns


@pytest.mark.parametrize("kind", SIZES)
def test_the_vocabulary_is_part_of_the_artifact(
    kind: str, tiny: LoadedTarget, greedy: list[TokenRecord], tmp_path: Path
) -> None:
    ids = emitted(greedy)
    drafter = trained(kind, tiny, greedy, ids, steps=2)
    save_drafter(drafter, tmp_path, "tiny-1")
    loaded = load_drafter(tmp_path, tiny.target, "tiny-1")
    assert loaded.draft_ids_V is not None
    assert loaded.draft_ids_V.dtype == torch.int64
    assert torch.equal(loaded.draft_ids_V, ids)
    assert torch.equal(loaded.clone().draft_ids_V, ids)  # type: ignore[arg-type]
    assert loaded.config.draft_vocab_size == len(ids)
    features = extract(tiny.target, greedy[:2])
    context = loaded.context(features.hidden_BTF, features.next_tokens_BT)
    torch.testing.assert_close(loaded.clone().heads(context[:, 4]), loaded.heads(context[:, 4]))


@pytest.mark.parametrize("wrong", [[3, 2, 5], [1, 1, 2], [4, 5, 256], [-1, 0, 1]])
def test_ids_that_are_not_ascending_tokens_are_refused(
    wrong: list[int], tiny: LoadedTarget, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="draft_ids_V"):
        new_drafter("medusa", tiny.target, draft_vocab=torch.tensor(wrong), num_heads=1)
    drafter = new_drafter("medusa", tiny.target, draft_vocab=torch.tensor([1, 2, 3]), num_heads=1)
    drafter.assign_draft_ids(torch.tensor(wrong))
    save_drafter(drafter, tmp_path, "tiny-1")
    with pytest.raises(ArtifactError, match="draft_ids_V"):
        load_drafter(tmp_path)


def test_a_changed_vocabulary_keeps_what_was_learnt_of_each_token(
    tiny: LoadedTarget, greedy: list[TokenRecord]
) -> None:
    before, after = torch.arange(0, 200), torch.arange(100, 250, 2)
    for kind, name in (("amphista", "markov_output_VR"), ("medusa", "vocabulary_KVF")):
        drafter = trained(kind, tiny, greedy, before, steps=4)
        changed = retrimmed(drafter, after)
        assert changed.draft_ids_V is not None and torch.equal(changed.draft_ids_V, after)
        dim = 0 if kind == "amphista" else 1
        old, new = drafter.get_parameter(name), changed.get_parameter(name)
        assert old.abs().sum() > 0
        assert torch.equal(new.narrow(dim, 0, 50), old.index_select(dim, after[:50]))
        fresh = new_drafter(kind, tiny.target, draft_vocab=after, **SIZES[kind]).get_parameter(name)
        assert torch.equal(new.narrow(dim, 50, 25), fresh.narrow(dim, 50, 25))
        assert torch.equal(changed.get_parameter("residual_KFF"), drafter.get_parameter("residual_KFF"))


def test_training_goes_on_with_the_tokens_that_it_had(
    tiny: LoadedTarget, greedy: list[TokenRecord], tmp_path: Path
) -> None:
    config = TrainerConfig(warmup_steps=2)
    first, second = (
        Trainer(
            new_drafter("amphista", tiny.target, draft_vocab=ids, **SIZES["amphista"]), tiny.target, config
        )
        for ids in (torch.arange(0, 200), torch.arange(50, 250))
    )
    first.slice(greedy[:4])
    first.save(tmp_path / "state")
    second.load(tmp_path / "state")
    for learner in (first, second):
        learner.slice(greedy[4:8])
    one, two = first.candidate().state_dict(), second.candidate().state_dict()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    features = extract(tiny.target, greedy[:2])
    a, b = (t.candidate().heads(features.hidden_BTF[:, :1]) for t in (first, second))
    assert torch.equal(a, b)


def test_tokens_emitted_lately_replace_others() -> None:
    ids = torch.tensor([1, 4, 6, 8])
    counts = np.zeros(10, dtype=np.int64)
    assert refreshed_vocab(ids, counts).tolist() == [1, 4, 6, 8]
    counts[[9, 8, 0]] = [5, 1, 1]
    assert refreshed_vocab(ids, counts).tolist() == [0, 1, 8, 9]


def test_the_most_frequent_tokens_are_chosen() -> None:
    counts = emitted_tokens([np.array([5, 5, 9, 2]), np.array([9, 5, 70_000])], 80_000)
    assert counts[[5, 9, 2, 70_000, 3]].tolist() == [3, 2, 1, 1, 0]
    assert choose_draft_vocab(counts, 3, ()).tolist() == [2, 5, 9]  # type: ignore[union-attr]
    assert choose_draft_vocab(counts, 3, (71_000,)).tolist() == [5, 9, 71_000]  # type: ignore[union-attr]
    chosen = choose_draft_vocab(counts, None, (71_000,))
    assert chosen is not None and len(chosen) == 64
    assert {2, 5, 9, 70_000, 71_000} <= set(chosen.tolist())
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert choose_draft_vocab(np.ones(200_000, dtype=np.int64), None) is not None
    assert len(choose_draft_vocab(np.ones(200_000, dtype=np.int64), None)) == 32_768  # type: ignore[arg-type]


def test_small_vocabularies_are_whole_unless_asked_for() -> None:
    counts = np.ones(32_000, dtype=np.int64)
    assert choose_draft_vocab(counts, None) is None
    assert choose_draft_vocab(counts, 0) is None
    assert choose_draft_vocab(counts, 32_000) is None
    assert len(choose_draft_vocab(counts, 1000)) == 1000  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="draft_vocab"):
        choose_draft_vocab(counts, 1, (3, 4))
