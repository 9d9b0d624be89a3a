"""The cost model and the profile that it starts from. No real time passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from online_draft.decoding.policy.cost import CostModel
from online_draft.decoding.policy.profile import (
    MAX_BUCKETS,
    ProfileKey,
    StepProfile,
    default_cache_dir,
    load_profile,
    measure_profile,
    row_buckets,
    save_profile,
)

PROFILE = StepProfile((1, 4, 16, 64), (1.0, 1.3, 2.5, 8.5), (1, 4), (0.3, 0.6), 0.1)
KEY = ProfileKey("llama-abc", "cpu", "float32", 2, "native-1")


def speculative(model: CostModel, nodes: int, sequences: int = 1) -> float:
    return float(model.speculative(sequences, 0, nodes + 1)[nodes])


def test_costs_start_from_the_profile() -> None:
    model = CostModel(PROFILE)
    assert model.plain(1) == pytest.approx(1.1)
    assert model.plain(10) == pytest.approx(1.9 + 0.1)
    assert speculative(model, 15) == pytest.approx(2.5 + 0.3 + 0.1)
    assert speculative(model, 14, sequences=2) == pytest.approx(2.5 + 0.4 + 0.1)


def test_costs_go_on_beyond_the_profile() -> None:
    model = CostModel(PROFILE)
    assert model.plain(96) == pytest.approx(8.5 + 32 * 6.0 / 48 + 0.1)
    assert float(model.speculative(4, 300, 2)[0]) > 8.5 * 4
    assert CostModel(StepProfile((8,), (2.0,))).plain(16) == pytest.approx(4.0)


def test_rows_of_static_shapes_cost_what_their_bucket_costs() -> None:
    model = CostModel(PROFILE, padded=True)
    costs = model.speculative(1, 0, 64)
    assert costs[4] == costs[15] == pytest.approx(2.5 + 0.4)
    assert costs[16] == costs[63] == pytest.approx(8.5 + 0.4)
    assert model.plain(5) == model.plain(16)
    for _ in range(40):
        model.observe(6, 1, True, 5.8)
    assert speculative(model, 15) == pytest.approx(5.8, rel=0.02)


def test_others_share_the_batch() -> None:
    model = CostModel(PROFILE)
    assert float(model.speculative(1, 3, 13)[12]) == pytest.approx(2.5 + 0.3 + 0.1)


@pytest.mark.parametrize("factor", [0.5, 1.3, 2.0, 5.0])
def test_follows_a_machine_that_slows_down(factor: float) -> None:
    model = CostModel(PROFILE)
    plain, drafted = model.plain(1), speculative(model, 7)
    for _ in range(150):
        model.observe(8, 1, True, factor * drafted)
        model.observe(1, 0, False, factor * plain)
    assert speculative(model, 7) == pytest.approx(factor * drafted, rel=0.03)
    assert model.plain(1) == pytest.approx(factor * plain, rel=0.03)


def test_one_outlier_changes_nothing() -> None:
    model = CostModel(PROFILE)
    for _ in range(100):
        model.observe(8, 1, True, speculative(model, 7))
    before = model.plain(1), speculative(model, 7), speculative(model, 20)
    for _ in range(20):
        model.observe(8, 1, True, 50.0)
        model.observe(8, 1, True, before[1])
    assert (model.plain(1), speculative(model, 7), speculative(model, 20)) == pytest.approx(before, rel=1e-3)


def test_noise_is_averaged() -> None:
    rng = np.random.default_rng(0)
    model = CostModel(PROFILE)
    for _ in range(500):
        model.observe(16, 1, True, 3.5 * float(np.exp(rng.normal(0, 0.1))))
    assert speculative(model, 15) == pytest.approx(3.5, rel=0.06)


def test_the_kind_that_is_not_run_keeps_its_proportion() -> None:
    model = CostModel(PROFILE)
    for _ in range(50):
        model.observe(1, 0, False, 1.1)
        model.observe(8, 1, True, speculative(model, 7))
    before = speculative(model, 7)
    for _ in range(100):
        model.observe(1, 0, False, 1.1 * 1.4)
    assert speculative(model, 7) == pytest.approx(1.4 * before, rel=0.12)


def test_a_kind_that_was_not_run_for_long_is_learnt_in_a_few_steps() -> None:
    model = CostModel(PROFILE)
    for _ in range(200):
        model.observe(8, 1, True, speculative(model, 7))
    for _ in range(2000):
        model.observe(1, 0, False, 1.1)
    cheaper = 0.75 * speculative(model, 7)
    for _ in range(3):
        model.observe(8, 1, True, cheaper)
    assert speculative(model, 7) == pytest.approx(cheaper, rel=0.12)


def test_buckets_are_corrected_apart() -> None:
    model = CostModel(PROFILE)
    for _ in range(300):
        model.observe(16, 1, True, 1.3 * 2.9)
        model.observe(4, 1, True, 1.7)
    assert speculative(model, 15) == pytest.approx(1.3 * 2.9, rel=0.03)
    assert speculative(model, 3) == pytest.approx(1.7, rel=0.03)


@pytest.mark.parametrize("sequences", [1, 16, 64])
def test_buckets_span_every_batch(sequences: int) -> None:
    buckets = row_buckets(sequences, 16)
    assert buckets[0] == 1
    assert buckets[-1] == sequences * 17
    assert len(buckets) <= MAX_BUCKETS
    assert list(buckets) == sorted(set(buckets))


class SimulatedMachine:
    """A clock that moves only when something runs; every fourth run is disturbed."""

    def __init__(self, scale: float = 1e-3) -> None:
        self.now = 0.0
        self.scale = scale
        self.runs: list[tuple[int, int]] = []

    def clock(self) -> float:
        return self.now

    def run(self, rows: int, sequences: int) -> None:
        self.runs.append((rows, sequences))
        self.now += self.scale * (4.0 + rows) * (10.0 if len(self.runs) % 4 == 0 else 1.0)

    def draft(self, sequences: int) -> None:
        self.now += self.scale * (1.0 + sequences)


def test_a_profile_is_the_median_of_what_was_measured() -> None:
    machine = SimulatedMachine()
    profile = measure_profile(machine.run, machine.draft, (1, 8, 64), 8, machine.clock, 10.0)
    assert profile.row_seconds == pytest.approx((5e-3, 12e-3, 68e-3))
    assert profile.sequences == (1, 2, 8)
    assert profile.draft_seconds == pytest.approx((2e-3, 3e-3, 9e-3))
    assert all(1 <= sequences <= min(rows, 8) for rows, sequences in machine.runs)
    assert (64, 8) in machine.runs


def test_a_disturbance_does_not_make_few_rows_dear() -> None:
    machine = SimulatedMachine()

    def disturbed(rows: int, sequences: int) -> None:
        machine.run(rows, sequences)
        machine.now += 0.1 if rows == 1 else 0.0

    profile = measure_profile(disturbed, None, (1, 8, 64), 8, machine.clock, 10.0)
    assert profile.row_seconds == pytest.approx((12e-3, 12e-3, 68e-3))


def test_measuring_keeps_to_its_budget() -> None:
    machine = SimulatedMachine(scale=2e-3)
    measure_profile(machine.run, machine.draft, (1, 8, 64), 8, machine.clock, 1.0)
    assert machine.now < 2.5
    slow = SimulatedMachine(scale=1.0)
    measure_profile(slow.run, None, (1, 8), 8, slow.clock, 1.0)
    assert len(slow.runs) == 2


def test_a_profile_is_kept_on_disk(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    assert load_profile(directory, KEY) is None
    assert save_profile(directory, KEY, PROFILE)
    assert load_profile(directory, KEY) == PROFILE
    assert load_profile(directory, KEY, PROFILE.rows) == PROFILE
    assert load_profile(directory, KEY, (1, 2)) is None
    assert [path.suffix for path in directory.iterdir()] == [".json"]


@pytest.mark.parametrize("field", ["target", "device", "dtype", "threads", "kernel"])
def test_another_key_has_another_profile(field: str, tmp_path: Path) -> None:
    save_profile(tmp_path, KEY, PROFILE)
    changed = {name: getattr(KEY, name) for name in KEY.__slots__}
    changed[field] = 7 if field == "threads" else "other"
    other = ProfileKey(**changed)
    assert load_profile(tmp_path, other) is None
    assert save_profile(tmp_path, other, PROFILE)
    assert len(list(tmp_path.iterdir())) == 2
    assert load_profile(tmp_path, KEY) == PROFILE


def test_a_file_that_is_named_for_another_key_is_not_used(tmp_path: Path) -> None:
    other = ProfileKey("llama-def", "cpu", "float32", 2)
    save_profile(tmp_path, KEY, PROFILE)
    [mine] = tmp_path.iterdir()
    save_profile(tmp_path, other, PROFILE)
    [theirs] = set(tmp_path.iterdir()) - {mine}
    mine.replace(theirs)
    assert load_profile(tmp_path, other) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "\x00\x01",
        lambda text: text.replace('"schema": 2', '"schema": 99'),
        lambda text: text.replace("2.5", "-2.5"),
        lambda text: text.replace("2.5", "NaN"),
        lambda text: text.replace("[1, 4, 16, 64]", "[4, 1, 16, 64]"),
        lambda text: text.replace("[1, 4, 16, 64]", "[1, 4]"),
        lambda text: text.replace('"rows"', '"lines"'),
        lambda text: text.replace('"profile": {', '"profile": null, "x": {'),
    ],
)
def test_a_damaged_profile_is_measured_anew(damage: object, tmp_path: Path) -> None:
    assert callable(damage)
    save_profile(tmp_path, KEY, PROFILE)
    [path] = tmp_path.iterdir()
    path.write_text(damage(path.read_text()))
    assert load_profile(tmp_path, KEY) is None
    assert save_profile(tmp_path, KEY, PROFILE)
    assert load_profile(tmp_path, KEY) == PROFILE


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert not save_profile(file, KEY, PROFILE)
    assert not save_profile(file / "below", KEY, PROFILE)
    assert load_profile(file, KEY) is None


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ONLINE_DRAFT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "online-draft" / "profiles"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache_dir() == tmp_path / "home" / ".cache" / "online-draft" / "profiles"


def test_nodes_without_a_draft_cost_what_drafted_ones_do_less_the_draft_until_they_are_known() -> None:
    model = CostModel(PROFILE)
    for _ in range(60):
        model.observe(16, 1, True, 1.5 * 2.9)
    inherited = float(model.speculative(0, 1, 16)[15])
    assert inherited == pytest.approx(1.5 * 2.6, rel=0.02)
    plain, drafted = model.plain(1), speculative(model, 15)
    for _ in range(100):
        model.observe(16, 0, True, inherited * 0.8)
        model.observe(16, 1, True, drafted)
        model.observe(1, 0, False, plain)
    assert float(model.speculative(0, 1, 16)[15]) == pytest.approx(0.8 * inherited, rel=0.03)
    assert speculative(model, 15) == pytest.approx(drafted, rel=0.03)
