"""The parts of `bench ablate`: options, variants, shared features, the cut window, the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from online_draft.bench.ablate.options import AblateOptions
from online_draft.bench.ablate.remembered import RememberedTarget
from online_draft.bench.ablate.report import _over, _statistics
from online_draft.bench.ablate.rows import row_specs, start_late
from online_draft.bench.ablate.variants import BASE, NAMES, PRESETS, VARIANTS, trained
from online_draft.errors import ConfigError
from online_draft.models.artifact import new_drafter
from online_draft.models.config import TargetConfig
from online_draft.models.loading import random_target
from online_draft.models.ring import FeatureRing
from online_draft.training.features import TokenRecord, extract
from online_draft.training.trainer import TrainerConfig

TARGET = random_target(TargetConfig.tiny("llama", False, 50), dtype=torch.float64)
OUT = Path("out.json")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (AblateOptions(), "json"),
        (AblateOptions(json_path=OUT, variants=()), "variants"),
        (AblateOptions(json_path=OUT, variants=("base", "bigger")), "variants"),
        (AblateOptions(json_path=OUT, preset="huge"), "preset"),  # type: ignore[arg-type]
        (AblateOptions(json_path=OUT, seeds=0), "seeds"),
        (AblateOptions(json_path=OUT, workers=0), "workers"),
        (AblateOptions(json_path=OUT, answers=19), "answers"),
        (AblateOptions(json_path=OUT, kernels="auto"), "kernels"),  # type: ignore[arg-type]
        (AblateOptions(json_path=OUT, speed="maybe"), "speed"),  # type: ignore[arg-type]
        (AblateOptions(json_path=OUT, max_hours=0.0), "max-hours"),
        (AblateOptions(json_path=OUT, target="elsewhere"), "prompts"),
    ],
)
def test_the_option_is_named(options: AblateOptions, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        options.check()
    assert caught.value.field == named


@pytest.mark.parametrize("name", [name for name in NAMES if VARIANTS[name].recompute is None])
def test_every_variant_is_one_that_can_be_built_and_trained(name: str) -> None:
    variant = VARIANTS[name]
    drafter = new_drafter(variant.method, TARGET, **variant.sizes_for(TARGET.config))
    TrainerConfig(**variant.trainer)
    base = VARIANTS[BASE]
    changed = (variant.method, variant.sizes, variant.trainer, variant.data)
    assert name == BASE or changed != (base.method, base.sizes, base.trainer, base.data)
    assert drafter.num_heads == variant.sizes_for(TARGET.config)["num_heads"]


def test_presets_and_needed_rows() -> None:
    assert PRESETS["full"] == NAMES
    assert [variant.name for variant in trained(("recompute-8",))] == [BASE]
    assert [variant.name for variant in trained(("medusa", "recompute-1", "recompute-8"))] == [BASE, "medusa"]


def test_rows_come_seed_by_seed_and_other_settings_are_other_rows() -> None:
    options = AblateOptions(json_path=OUT, variants=("base", "plain"), seeds=2)
    specs = row_specs(options, "key")
    assert [(spec.variant.name, spec.seed) for spec in specs] == [
        ("base", 0),
        ("plain", 0),
        ("base", 1),
        ("plain", 1),
    ]
    others = [
        row_specs(AblateOptions(json_path=OUT, variants=("base", "plain"), seeds=2, steps=7), "key"),
        row_specs(options, "other answers"),
    ]
    names = {spec.name for found in (specs, *others) for spec in found}
    assert len(names) == 12


class Counting:
    """A target that counts the sequences that it is asked to read."""

    def __init__(self) -> None:
        self.read = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(TARGET, name)

    def prefill_hidden(self, tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        self.read += tokens.shape[0]
        return TARGET.prefill_hidden(tokens, *rest)


RECORDS = [TokenRecord(tuple(range(1, 3 + i)), tuple(range(5, 12 + 2 * i))) for i in range(5)]


@pytest.mark.parametrize("layers", [(), (1, 2)])
def test_a_remembered_target_reads_each_record_once(layers: tuple[int, ...]) -> None:
    counting = Counting()
    remembered = RememberedTarget.of(counting)  # type: ignore[arg-type]
    for chosen in (RECORDS[:3], RECORDS[1:], RECORDS, RECORDS[:1]):
        found = extract(remembered, chosen, layers=layers)
        expected = extract(TARGET, chosen, layers=layers)
        torch.testing.assert_close(found.rows_BTX, expected.rows_BTX)
        torch.testing.assert_close(found.hidden_BTF, expected.hidden_BTF)
    assert counting.read == 5


def test_a_remembered_target_forgets_the_longest_unused() -> None:
    counting = Counting()
    one = extract(TARGET, RECORDS[4:]).hidden_BTF.nbytes
    remembered = RememberedTarget(counting, limit_bytes=2 * one)  # type: ignore[arg-type]
    for index in (4, 3, 4, 2, 4):
        extract(remembered, RECORDS[index : index + 1])  # type: ignore[arg-type]
    assert counting.read == 3
    assert remembered._bytes <= 2 * one
    extract(remembered, RECORDS[3:4])  # type: ignore[arg-type]
    assert counting.read == 4


@pytest.mark.parametrize("rows", [1, 3, 50])
def test_a_late_start_is_what_a_prefix_hit_leaves_in_the_ring(rows: int) -> None:
    drafter = new_drafter("amphista", TARGET, window=16, num_heads=3)
    with torch.no_grad():
        for parameter in drafter.parameters():
            parameter.normal_(std=0.3)
    features = extract(TARGET, RECORDS)
    cut = start_late(features, rows)
    context = drafter.context(cut.rows_BTX, cut.next_tokens_BT)
    for row, record in enumerate(RECORDS):
        prompt, tokens = len(record.prompt_ids), [*record.prompt_ids, *record.output_ids]
        left = min(rows, prompt)
        assert int(cut.starts_B[row]) == left
        assert cut.tokens_BT[row, : int(cut.lengths_B[row])].tolist() == tokens[prompt - left :]
        ring = FeatureRing(1, 16, TARGET.config.hidden_size, torch.float64)
        ring.rebase(0, prompt - left)
        kept = slice(prompt - left, prompt + 4)
        ring.append(0, features.hidden_BTF[row, kept], features.next_tokens_BT[row, kept])
        served = drafter.draft(drafter.new_state(1), ring, [0]).base_logits_SKV[0]
        at = torch.tensor([left + 3])
        replayed = drafter.draft_from(drafter.at(context, torch.tensor([row]), at)).base_logits_SKV[0]
        # The rotation table is float32.
        torch.testing.assert_close(replayed, served, rtol=1e-3, atol=1e-3)


def test_means_ranges_and_ratios() -> None:
    entry = {name: _statistics([1.0, 4.0], 2) for name in ("tau", "tokens_per_second", "speedup")}
    assert entry["tau"] == {"mean": 2.5, "spread": [1.0, 4.0], "values": [1.0, 4.0]}
    assert _statistics([], 2) is None
    base = {**entry, "tau": _statistics([2.0], 2), "replayed_tokens_per_second": None}
    over = _over({**entry, "replayed_tokens_per_second": None}, base)
    assert over["tau"] == 1.25 and over["speedup"] == 1.0
    assert over["replayed_tokens_per_second"] is None
    assert set(_over(base, None).values()) == {None}
