"""Our one skeleton against transformers' own models: dense, paged, chunked, in trees, after compaction."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from online_draft.errors import ConfigError
from online_draft.models.attention import GroupAttention
from online_draft.models.config import TargetConfig
from online_draft.models.kv import KVCache
from online_draft.models.rows import AttentionGroup, RowBatch
from online_draft.models.target import Target
from online_draft.models.weights import copy_weights, weight_files

SIZES: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "intermediate_size": 80,
    "max_position_embeddings": 160,
    "initializer_range": 0.2,
    "attn_implementation": "eager",
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}


def _qwen2(**changes: Any) -> Any:
    """Qwen2 has no `head_dim`: its heads fill the hidden state."""
    return transformers.Qwen2Config(**{**SIZES, "head_dim": 8, **changes})


def _hf_configs() -> dict[str, Any]:
    return {
        "llama-untied": transformers.LlamaConfig(**SIZES, tie_word_embeddings=False),
        "llama-tied-bias": transformers.LlamaConfig(**SIZES, tie_word_embeddings=True, attention_bias=True),
        "llama-llama3-rope": transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3_ROPE),
        "llama-linear-rope": transformers.LlamaConfig(**SIZES, rope_parameters=LINEAR_ROPE),
        "mistral": transformers.MistralConfig(**SIZES, sliding_window=None),
        "qwen2-untied": _qwen2(tie_word_embeddings=False),
        "qwen2-tied": _qwen2(tie_word_embeddings=True),
        "qwen3-untied": transformers.Qwen3Config(**SIZES, tie_word_embeddings=False),
        "qwen3-tied": transformers.Qwen3Config(**SIZES, tie_word_embeddings=True),
    }


class Pair:
    """A transformers model and our target with the same weights."""

    def __init__(self, name: str, directory: Path, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(7)
        config = _hf_configs()[name]
        self.oracle = transformers.AutoModelForCausalLM.from_config(config).eval()
        for parameter_name, parameter in self.oracle.named_parameters():
            if "norm" in parameter_name or parameter_name.endswith("bias"):
                parameter.data.add_(torch.randn_like(parameter) * 0.3)
        self.oracle.save_pretrained(directory)
        self.oracle.to(dtype)
        self.target = Target(TargetConfig.from_hf(config), dtype)
        copy_weights(self.target, weight_files(directory))

    @torch.no_grad()
    def expected(self, token_ids: list[int]) -> Tensor:
        """The oracle's logits [T, V] of one whole sequence."""
        logits: Tensor = self.oracle(torch.tensor([token_ids]), use_cache=False).logits[0]
        return logits


@pytest.fixture(params=sorted(_hf_configs()))
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    yield Pair(request.param, tmp_path)


class Sequence:
    """A sequence with its slots and the logits that the target gave for it."""

    def __init__(self, token_ids: list[int], slots: list[int]) -> None:
        self.token_ids = token_ids
        self.free = slots
        self.slots: list[int] = []
        self.logits: list[Tensor] = []


def causal_rows(sequences: list[Sequence], counts: list[int]) -> RowBatch:
    """The next `counts[i]` tokens of each sequence, in one flat batch; one group per row count."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    groups = []
    for rows in sorted(set(counts)):
        members = [s for s, count in zip(sequences, counts, strict=True) if count == rows and rows > 0]
        if not members:
            continue
        start = len(tokens)
        for member in members:
            done = len(member.slots)
            fresh = [member.free.pop() for _ in range(rows)]
            member.slots += fresh
            tokens += member.token_ids[done : done + rows]
            positions += range(done, done + rows)
            slots += fresh
        longest = max(len(member.slots) for member in members)
        table = torch.zeros(len(members), longest, dtype=torch.long)
        mask = torch.zeros(len(members), rows, longest, dtype=torch.bool)
        for index, member in enumerate(members):
            length = len(member.slots)
            table[index, :length] = torch.tensor(member.slots)
            mask[index, :, :length] = torch.ones(rows, length, dtype=torch.bool).tril(length - rows)
        groups.append(AttentionGroup(start, len(members), rows, table, mask))
    return RowBatch(torch.tensor(tokens), torch.tensor(positions), torch.tensor(slots), groups)


@torch.inference_mode()
def advance(target: Target, kv: KVCache, sequences: list[Sequence], counts: list[int]) -> None:
    """One step; the logits of the new rows go to their sequences."""
    rows = causal_rows(sequences, counts)
    logits = target.logits(target(rows, kv))
    assert sum(group.sequences * group.rows_per_sequence for group in rows.groups) == logits.shape[0]
    taken = 0
    for wanted in sorted(set(counts) - {0}):
        for sequence, count in zip(sequences, counts, strict=True):
            if count == wanted:
                sequence.logits += list(logits[taken : taken + count])
                taken += count


def make_sequences(lengths: list[int], num_slots: int, seed: int = 3) -> list[Sequence]:
    """Random token sequences whose slots lie shuffled across the cache."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(num_slots, generator=generator).tolist()
    share = num_slots // len(lengths)
    return [
        Sequence(
            torch.randint(0, 101, (length,), generator=generator).tolist(),
            shuffled[i * share : (i + 1) * share],
        )
        for i, length in enumerate(lengths)
    ]


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    assert expected.abs().max() > 0.5, "logits too flat to compare"
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@torch.no_grad()
def test_dense_prefill_equals_the_oracle_on_padded_batches(pair: Pair) -> None:
    sequences = make_sequences([23, 9, 1], 90)
    batch = torch.zeros(3, 23, dtype=torch.long)
    for index, sequence in enumerate(sequences):
        batch[index, : len(sequence.token_ids)] = torch.tensor(sequence.token_ids)
    lengths = torch.tensor([23, 9, 1])
    hidden_BTF = pair.target.prefill_hidden(batch, lengths)
    assert torch.isfinite(hidden_BTF).all()
    for index, sequence in enumerate(sequences):
        length = len(sequence.token_ids)
        assert_close(pair.target.logits(hidden_BTF[index, :length]), pair.expected(sequence.token_ids))
        assert not hidden_BTF[index, length:].any()


@torch.no_grad()
def test_layers_beside_the_last_are_the_oracles_residual_stream(pair: Pair) -> None:
    tokens = torch.tensor([make_sequences([17], 90)[0].token_ids])
    found = pair.target.prefill_hidden(tokens, torch.tensor([17]), (2, 1))
    oracle = pair.oracle(tokens, use_cache=False, output_hidden_states=True).hidden_states
    size = pair.target.config.hidden_size
    for part, expected in zip(found[0].split(size, dim=-1), (oracle[3], oracle[2], oracle[1]), strict=True):
        torch.testing.assert_close(part, expected[0], rtol=0, atol=1e-4)
    usual = pair.target.prefill_hidden(tokens, torch.tensor([17]))
    assert torch.equal(found[..., :size], usual)
    with pytest.raises(ConfigError, match="feature_layers"):
        pair.target.prefill_hidden(tokens, torch.tensor([17]), (4,))


def test_chunked_prefill_and_decoding_of_several_sequences_equal_the_oracle(pair: Pair) -> None:
    kv = KVCache(pair.target.config, 120)
    sequences = make_sequences([30, 17, 11], 120)
    schedule = [[7, 7, 3], [7, 2, 3], [6, 6, 1], [7, 1, 1], [1, 1, 1], [1, 0, 1], [1, 0, 1]]
    for counts in schedule:
        advance(pair.target, kv, sequences, counts)
    for sequence in sequences:
        assert len(sequence.logits) == len(sequence.token_ids)
        assert_close(torch.stack(sequence.logits), pair.expected(sequence.token_ids))


TREE_PARENTS = [-1, 0, 0, 1, 1, 2, 3]
"""Row 0 is the root; the others' parents are rows."""


def _path(row: int) -> list[int]:
    path: list[int] = []
    while row >= 0:
        path.insert(0, row)
        row = TREE_PARENTS[row]
    return path


def test_every_tree_branch_equals_the_oracle_on_its_path_also_after_compaction(pair: Pair) -> None:
    target = pair.target
    kv = KVCache(target.config, 80)
    (sequence,) = make_sequences([12], 80)
    advance(target, kv, [sequence], [12])
    tree_tokens = [5, 17, 60, 33, 8, 99, 41]
    fresh = [sequence.free.pop() for _ in tree_tokens]
    context = sequence.slots + fresh
    mask = torch.zeros(1, len(fresh), len(context), dtype=torch.bool)
    mask[..., :12] = True
    for row in range(len(fresh)):
        mask[0, row, [12 + ancestor for ancestor in _path(row)]] = True
    depths = torch.tensor([12 + len(_path(row)) - 1 for row in range(len(fresh))])
    rows = RowBatch(
        torch.tensor(tree_tokens),
        depths,
        torch.tensor(fresh),
        [AttentionGroup(0, 1, len(fresh), torch.tensor([context]), mask)],
    )
    with torch.inference_mode():
        logits = target.logits(target(rows, kv))
    for row in range(len(fresh)):
        branch = [tree_tokens[node] for node in _path(row)]
        assert_close(logits[row], pair.expected(sequence.token_ids + branch)[-1])

    accepted = _path(6)
    kept = fresh[: len(accepted)]
    kv.move(torch.tensor([fresh[row] for row in accepted]), torch.tensor(kept))
    sequence.token_ids += [tree_tokens[row] for row in accepted] + [2, 71]
    sequence.slots += kept
    sequence.logits.clear()
    advance(target, kv, [sequence], [1])
    advance(target, kv, [sequence], [1])
    assert_close(torch.stack(sequence.logits), pair.expected(sequence.token_ids)[-2:])


@pytest.mark.parametrize("name", ["llama-untied", "qwen2-tied", "qwen3-untied", "mistral"])
def test_float64_equals_the_oracle(name: str, tmp_path: Path) -> None:
    pair = Pair(name, tmp_path, torch.float64)
    kv = KVCache(pair.target.config, 60, torch.float64)
    sequences = make_sequences([14, 8], 60)
    for counts in ([6, 6], [7, 1], [1, 1]):
        advance(pair.target, kv, sequences, counts)
    for sequence in sequences:
        got = torch.stack(sequence.logits)
        assert got.dtype == torch.float64
        # Rotations and the oracle's norms are float32 at heart.
        assert_close(got, pair.expected(sequence.token_ids), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_folded_query_heads_equal_grouped_attention(dtype: torch.dtype) -> None:
    config = TargetConfig.tiny(num_heads=6, num_kv_heads=2)
    generator = torch.Generator().manual_seed(1)
    kv = KVCache(config, 40, dtype)
    kv.pairs.copy_(torch.randn(kv.pairs.shape, generator=generator))
    table = torch.stack([torch.randperm(40, generator=generator)[:13] for _ in range(2)])
    mask = torch.rand(2, 5, 13, generator=generator) > 0.4
    mask[..., 0] = True
    group = AttentionGroup(0, 2, 5, table, mask)
    queries = torch.randn(10, 6, config.head_dim, generator=generator).to(dtype)
    direct = GroupAttention(group, kv, dtype, fold=False).attend(1, queries)
    folded = GroupAttention(group, kv, dtype, fold=True).attend(1, queries)
    torch.testing.assert_close(folded, direct, rtol=0, atol=2e-2 if dtype == torch.bfloat16 else 1e-6)


def test_a_run_of_neighbouring_slots_gives_what_a_gather_gives(tmp_path: Path) -> None:
    pair = Pair("llama-untied", tmp_path)
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, 101, (9,), generator=generator).tolist()
    results = []
    for slots in (list(range(5, 14)), torch.randperm(30, generator=generator).tolist()):
        kv = KVCache(pair.target.config, 30)
        sequence = Sequence(list(tokens), slots[::-1])  # slots are taken from the end
        for count in (6, 2, 1):
            advance(pair.target, kv, [sequence], [count])
        results.append(torch.stack(sequence.logits))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-5)
    assert_close(results[0], pair.expected(tokens))
