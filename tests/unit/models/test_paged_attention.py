"""Rows that say what they see give what a dense softmax over exactly that gives."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from online_draft.models.config import ARCHITECTURES, Architecture, TargetConfig
from online_draft.models.kv import KVCache
from online_draft.models.loading import random_target
from online_draft.models.paged_attention import (
    TILE_ROWS,
    Attend,
    PagedRows,
    gathered_attention,
    kernel_attention,
    paged_forward,
)
from online_draft.models.rows import AttentionGroup, RowBatch

PLACES = 160
on_triton = pytest.mark.filterwarnings("default")
"""What Triton warns of is not ours."""


class Shape:
    """Sizes of a cache's slots."""

    def __init__(self, kv_heads: int, head_dim: int) -> None:
        self.num_layers, self.num_kv_heads, self.head_dim = 1, kv_heads, head_dim


def random_rows(rng: random.Random, device: torch.device, padding: int = 3) -> PagedRows:
    """Ragged trees, roots and prompt chunks of several sequences, with padding rows behind them."""
    sequences = 4
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    table = 1 + torch.randperm(sequences * PLACES, generator=generator).view(sequences, PLACES)
    fields: list[tuple[int, int, int]] = []
    chains: list[list[int]] = []
    tiles: list[tuple[int, int]] = []
    for sequence in rng.sample(range(sequences), rng.randint(1, sequences)):
        kind = rng.choice(["tree", "root", "chunk"])
        length = rng.choice([1, 2, 31, 32, 33, rng.randint(1, 110)])
        count = 1 if kind == "root" else rng.randint(1, 2 * TILE_ROWS + 3)
        tiles += [(len(fields) + at, min(TILE_ROWS, count - at)) for at in range(0, count, TILE_ROWS)]
        own: list[list[int]] = []
        for row in range(count):
            if kind == "tree":
                above = own[rng.randrange(row)] if row else []
                own.append([length + row, *above][:5] if row else [])
                fields.append((sequence, length + row, length + 1))
            else:
                own.append([])
                fields.append((sequence, length + row, length + row + 1))
        chains += own
    fields += [(0, -1, 0)] * padding
    chains += [[]] * padding
    widest = max(map(len, chains)) + rng.randrange(2)
    sequence_N, place_N, context_N = torch.tensor(fields, device=device).t().contiguous().unbind(0)
    tile_T2 = torch.tensor([*tiles, (0, 0)], device=device)
    chain_NA = torch.tensor(
        [chain + [-1] * (widest - len(chain)) for chain in chains], dtype=torch.int64, device=device
    )
    tokens_N = torch.randint(256, place_N.shape, generator=generator).to(device)
    return PagedRows(
        tokens_N,
        place_N.clamp(min=0),
        sequence_N,
        place_N,
        context_N,
        chain_NA.view(len(fields), widest),
        tile_T2[:, 0].contiguous(),
        tile_T2[:, 1].contiguous(),
        table.to(device),
    )


def random_cache(rows: PagedRows, kv_heads: int, size: int, dtype: torch.dtype) -> KVCache:
    kv = KVCache(Shape(kv_heads, size), int(rows.table.max()) + 1, dtype, rows.table.device)
    kv.pairs.copy_(torch.randn(kv.pairs.shape, generator=torch.Generator().manual_seed(1)))
    return kv


def dense(rows: PagedRows, kv: KVCache, queries_NHD: Tensor) -> Tensor:
    """One softmax per row and head over what the row sees, in float64."""
    outputs = []
    for row in range(rows.place_N.shape[0]):
        slots = rows.table[rows.sequence_N[row]]
        chain = rows.chain_NA[row]
        seen = torch.cat((slots[: rows.context_N[row]], slots[chain[chain >= 0]]))
        keys, values = kv.keys[0, seen].double(), kv.values[0, seen].double()
        share = queries_NHD.shape[1] // keys.shape[1]
        keys, values = keys.repeat_interleave(share, 1), values.repeat_interleave(share, 1)
        scores = torch.einsum("hd,lhd->hl", queries_NHD[row].double(), keys) * keys.shape[2] ** -0.5
        outputs.append(torch.einsum("hl,lhd->hd", scores.softmax(-1), values).flatten())
    return torch.stack(outputs)


@pytest.fixture(scope="module")
def kernel_device() -> Iterator[torch.device]:
    """Where the Triton kernel can run: a CUDA device, else the CPU in Triton's interpreter."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs Triton")
    if torch.cuda.is_available():
        yield torch.device("cuda")
        return
    with pytest.MonkeyPatch.context() as patch:
        # Triton reads it when a kernel is defined and again when it is called.
        patch.setenv("TRITON_INTERPRET", "1")
        yield torch.device("cpu")


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(4, 2, 8), (6, 1, 22)])
@torch.inference_mode()
def test_gathered_attention_sees_the_context_and_the_chain(
    seed: int, heads: int, kv_heads: int, size: int
) -> None:
    rows = random_rows(random.Random(seed), torch.device("cpu"))
    kv = random_cache(rows, kv_heads, size, torch.float64)
    queries = torch.randn(
        rows.place_N.shape[0],
        heads,
        size,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(seed),
    )
    mixed = gathered_attention(rows, kv, torch.float64, PLACES)(0, queries)
    live = rows.context_N > 0
    torch.testing.assert_close(mixed[live], dense(rows, kv, queries)[live], rtol=0, atol=1e-12)
    assert mixed.isfinite().all()


@on_triton
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(4, 2, 16), (6, 1, 22), (3, 3, 32)])
@torch.inference_mode()
def test_the_kernel_sees_the_context_and_the_chain(
    kernel_device: torch.device, seed: int, heads: int, kv_heads: int, size: int
) -> None:
    rows = random_rows(random.Random(seed), kernel_device)
    kv = random_cache(rows, kv_heads, size, torch.float32)
    generator = torch.Generator().manual_seed(seed)
    # Queries are a part of the fused projection: rows are further apart than their heads.
    wide = torch.randn(rows.place_N.shape[0], heads + 2, size, generator=generator).to(kernel_device)
    queries = wide.narrow(1, 0, heads)
    mixed = kernel_attention(rows, kv)(0, queries)
    live = rows.context_N > 0
    torch.testing.assert_close(mixed[live].double(), dense(rows, kv, queries)[live], rtol=0, atol=1e-5)
    assert not mixed[~live].any()


def eager_batch(rows: PagedRows) -> RowBatch:
    """The live rows as groups of one row with masks of their own."""
    live = int((rows.context_N > 0).sum())
    groups = []
    for row in range(live):
        slots = rows.table[rows.sequence_N[row]]
        chain = rows.chain_NA[row]
        seen = torch.cat((slots[: rows.context_N[row]], slots[chain[chain >= 0]]))
        groups.append(AttentionGroup(row, 1, 1, seen.unsqueeze(0), None))
    return RowBatch(rows.token_ids_N[:live], rows.position_ids_N[:live], rows.slots()[:live], groups)


def forward_both(family: Architecture, dtype: torch.dtype, rows: PagedRows, kernel: bool) -> float:
    """The largest difference between paged rows and the same ones through `Target.forward`."""
    target = random_target(TargetConfig.tiny(family, False, 256), 3, dtype).to(rows.table.device)
    size = int(rows.table.max()) + 1
    caches = [KVCache(target.config, size, dtype, rows.table.device) for _ in range(2)]
    for kv in caches:
        kv.pairs.copy_(torch.randn(kv.pairs.shape, generator=torch.Generator().manual_seed(1)))
    attend: Attend = (
        kernel_attention(rows, caches[0]) if kernel else gathered_attention(rows, caches[0], dtype, PLACES)
    )
    hidden = paged_forward(target, caches[0], rows, attend)
    expected = target(eager_batch(rows), caches[1])
    # Slot 0 takes the padding rows.
    torch.testing.assert_close(caches[0].pairs[:, 1:], caches[1].pairs[:, 1:], rtol=0, atol=1e-4)
    return float((hidden[: expected.shape[0]] - expected).abs().max())


@pytest.mark.parametrize("family", ARCHITECTURES)
@torch.inference_mode()
def test_a_paged_step_equals_the_targets_own(family: Architecture) -> None:
    rows = random_rows(random.Random(7), torch.device("cpu"))
    assert forward_both(family, torch.float64, rows, kernel=False) < 1e-11


@on_triton
@pytest.mark.parametrize("family", ARCHITECTURES)
@torch.inference_mode()
def test_a_paged_step_through_the_kernel_equals_the_targets_own(
    kernel_device: torch.device, family: Architecture
) -> None:
    rows = random_rows(random.Random(7), kernel_device)
    assert forward_both(family, torch.float32, rows, kernel=True) < 1e-3


def test_padding_rows_write_to_slot_0() -> None:
    rows = random_rows(random.Random(2), torch.device("cpu"), padding=2)
    slots = rows.slots().tolist()
    assert slots[-2:] == [0, 0]
    assert 0 not in slots[:-2]
    assert len(set(slots[:-2])) == len(slots) - 2
