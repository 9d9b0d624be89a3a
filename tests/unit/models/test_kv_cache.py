"""The KV tensors: what is written is what is read, and moves may overlap."""

from __future__ import annotations

import torch

from online_draft.models.config import TargetConfig
from online_draft.models.kv import KVCache

CONFIG = TargetConfig.tiny()


def filled(num_slots: int = 8) -> KVCache:
    kv = KVCache(CONFIG, num_slots)
    kv.pairs.copy_(
        torch.arange(num_slots, dtype=torch.float32)[None, :, None, None, None].expand_as(kv.pairs)
    )
    return kv


def slot_values(kv: KVCache) -> list[list[float]]:
    return [kv.keys[layer, :, 0, 0].tolist() for layer in range(CONFIG.num_layers)]


def test_written_rows_appear_in_keys_and_values_of_that_layer_only() -> None:
    kv = KVCache(CONFIG, 6, torch.float64)
    keys, values = torch.randn(2, 2, CONFIG.num_kv_heads, CONFIG.head_dim, dtype=torch.float64)
    kv.write(1, torch.tensor([4, 2]), keys, values)
    assert torch.equal(kv.keys[1, [4, 2]], keys)
    assert torch.equal(kv.values[1, [4, 2]], values)
    assert not kv.keys[0].any()
    assert kv.keys.shape == (CONFIG.num_layers, 6, CONFIG.num_kv_heads, CONFIG.head_dim)
    assert kv.num_slots == 6


def test_move_reads_all_sources_before_writing_in_every_layer() -> None:
    kv = filled()
    kv.move(torch.tensor([3, 5, 2]), torch.tensor([2, 3, 7]))
    assert slot_values(kv) == [[0, 1, 3, 5, 4, 5, 6, 2]] * CONFIG.num_layers
    assert torch.equal(kv.keys, kv.values)


def test_moving_nothing_changes_nothing() -> None:
    kv = filled()
    none = torch.empty(0, dtype=torch.long)
    kv.move(none, none)
    assert slot_values(kv) == [[0, 1, 2, 3, 4, 5, 6, 7]] * CONFIG.num_layers


def test_a_cache_made_under_inference_mode_can_be_written_outside() -> None:
    with torch.inference_mode():
        kv = KVCache(CONFIG, 4)
        kv.move(torch.tensor([0]), torch.tensor([1]))
    rows = torch.ones(1, CONFIG.num_kv_heads, CONFIG.head_dim)
    kv.write(0, torch.tensor([3]), rows, rows)
    assert kv.keys[0, 3].all()
