"""The speculation policy against simulated machines and drafters of known accuracy. No real time passes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from online_draft.decoding.drafting.selection import Selection
from online_draft.decoding.policy.calibration import Calibration
from online_draft.decoding.policy.cost import CostModel
from online_draft.decoding.policy.profile import StepProfile
from online_draft.decoding.policy.speculation import SpeculationMode, SpeculationPolicy

ROWS = (1, 2, 4, 8, 17, 64, 272)
DEPTHS = 4
NODES = 12
POOL = 200


@dataclass
class Trees:
    """What a drafter proposes. `truth_SN`: a node's probability given that its parent is on the walk."""

    token_SN: np.ndarray
    parent_SN: np.ndarray
    depth_SN: np.ndarray
    truth_SN: np.ndarray
    logprob_SN: np.ndarray


class KnownDrafter:
    """Random trees whose first choices are right with about probability `accuracy`, more or less by step; of
    a node that is right with probability p it says `says(p)`."""

    def __init__(
        self, rng: np.random.Generator, accuracy: float, says: Callable[[float], float] = lambda p: p
    ) -> None:
        self.rng = rng
        self.says = says
        spread = np.clip(accuracy + rng.uniform(-0.2, 0.2, POOL), 0.0, 0.97)
        self.pool = [self._tree(float(ease)) for ease in spread]

    def _tree(self, ease: float) -> tuple[list[int], list[int], list[float], list[float]]:
        """The most probable nodes, where a parent's child of rank r is right with ease · (1 - ease)^r."""
        parents: list[int] = []
        depths: list[int] = []
        truths: list[float] = []
        said: list[float] = []
        frontier = {-1: (0, 1.0)}
        ranks = {-1: 0}
        while len(parents) < NODES:
            chance = {
                node: max(ease * (1 - ease) ** ranks[node], 1e-4)
                for node, (depth, _) in frontier.items()
                if depth < DEPTHS
            }
            above = max(chance, key=lambda node: chance[node] * frontier[node][1])
            depth, path = frontier[above]
            node = len(parents)
            ranks[above] += 1
            ranks[node] = 0
            frontier[node] = depth + 1, path * chance[above]
            parents.append(above)
            depths.append(depth + 1)
            truths.append(chance[above])
            log = float(np.log(self.says(chance[above])))
            said.append(log + (said[above] if above >= 0 else 0.0))
        return parents, depths, truths, said

    def draft(self, sequences: int) -> Trees:
        drawn = [self.pool[i] for i in self.rng.integers(0, POOL, sequences)]
        parent, depth, truth, said = (np.array([tree[part] for tree in drawn]) for part in range(4))
        return Trees(np.arange(NODES)[None].repeat(sequences, 0), parent, depth, truth, said)

    def walk(self, trees: Trees, row: int) -> list[int]:
        """The nodes that the target would take if all were verified."""
        nodes: list[int] = []
        while True:
            current = nodes[-1] if nodes else -1
            children = np.flatnonzero(trees.parent_SN[row] == current)
            place = int(np.searchsorted(trees.truth_SN[row, children].cumsum(), self.rng.random()))
            if place == len(children):
                return nodes
            nodes.append(int(children[place]))


@dataclass
class Machine:
    """Seconds of a step, with noise and outliers; `row_cost` may be changed."""

    rng: np.random.Generator
    row_cost: Callable[[int], float]
    draft_cost: Callable[[int], float] = lambda sequences: 0.3 + 0.02 * sequences
    noise: float = 0.03
    outliers: float = 0.01

    def seconds(self, rows: int, drafting: int) -> float:
        total = self.row_cost(rows) + (self.draft_cost(drafting) if drafting else 0.0)
        if self.rng.random() < self.outliers:
            total *= 4.0
        return total * float(np.exp(self.rng.normal(0.0, self.noise)))

    def profile(self) -> StepProfile:
        sequences = (1, 4, 16)
        return StepProfile(
            ROWS,
            tuple(self.row_cost(n) for n in ROWS),
            sequences,
            tuple(self.draft_cost(n) for n in sequences),
        )


@dataclass
class Run:
    """What a simulated engine did."""

    tokens: int = 0
    seconds: float = 0.0
    drafted_seconds: float = 0.0
    drafted: list[bool] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds

    @property
    def drafted_share(self) -> float:
        return self.drafted_seconds / self.seconds


class SimulatedEngine:
    """Asks the policy, the machine and the drafter as the engine does, step by step."""

    def __init__(self, machine: Machine, drafter: KnownDrafter, mode: SpeculationMode = "auto") -> None:
        self.machine = machine
        self.drafter = drafter
        self.calibration = Calibration(DEPTHS)
        self.policy = SpeculationPolicy(CostModel(machine.profile()), NODES, mode)

    def run(self, steps: int, sequences: int = 1) -> Run:
        done = Run()
        for _ in range(steps):
            drafting = self.policy.plan(sequences)
            tokens, nodes = sequences - drafting, 0
            if drafting:
                gained, nodes = self._speculate(drafting)
                tokens += gained
            seconds = self.machine.seconds(sequences + nodes, drafting)
            self.policy.observe(seconds, tokens)
            done.tokens += tokens
            done.seconds += seconds
            done.drafted_seconds += seconds * (drafting > 0)
            done.drafted.append(drafting > 0)
            done.nodes.append(nodes)
        return done

    def _speculate(self, sequences: int) -> tuple[int, int]:
        trees = self.drafter.draft(sequences)
        values = self.calibration.values(trees.logprob_SN, trees.parent_SN, trees.depth_SN)
        selection = self.policy.select(values.tolist(), trees.parent_SN.tolist())
        walks = []
        for row in range(sequences):
            wanted = self.drafter.walk(trees, row)
            taken = list(itertools.takewhile(lambda node, r=row: node in selection.kept[r], wanted))
            walks.append(([*wanted, -1][: len(taken) + 1], taken))
        self.calibration.observe(trees.token_SN, trees.parent_SN, trees.depth_SN, trees.logprob_SN, walks)
        return sum(len(tokens) for tokens, _ in walks), selection.total


def simulated(
    row_cost: Callable[[int], float],
    accuracy: float,
    mode: SpeculationMode = "auto",
    seed: int = 0,
    says: Callable[[float], float] = lambda p: p,
) -> SimulatedEngine:
    rng = np.random.default_rng(seed)
    return SimulatedEngine(Machine(rng, row_cost), KnownDrafter(rng, accuracy, says), mode)


def cheap(rows: int) -> float:
    return 1.0 + 0.02 * rows


def dear(rows: int) -> float:
    return 1.0 * rows


def middling(rows: int) -> float:
    return 1.0 + 0.08 * rows


def bending(rows: int) -> float:
    """A memory-bound step up to 16 rows, a compute-bound one from there."""
    return 1.0 + 0.01 * rows + 0.15 * max(0, rows - 16)


@pytest.mark.parametrize("says", [lambda p: p, lambda p: p**0.5], ids=["honest", "boastful"])
@pytest.mark.parametrize("sequences", [1, 6])
@pytest.mark.parametrize("accuracy", [0.1, 0.4, 0.8])
@pytest.mark.parametrize("row_cost", [cheap, middling, dear, bending])
def test_auto_is_as_fast_as_the_better_of_plain_and_always(
    row_cost: Callable[[int], float], accuracy: float, sequences: int, says: Callable[[float], float]
) -> None:
    steps = 2400 // sequences
    rates = {}
    for mode in ("auto", "always", "off"):
        engine = simulated(row_cost, accuracy, mode, seed=sequences, says=says)  # type: ignore[arg-type]
        engine.run(60, sequences)
        rates[mode] = engine.run(steps, sequences).rate
    assert rates["auto"] >= 0.98 * max(rates["always"], rates["off"])


def test_nothing_is_drafted_where_verification_is_dear_and_again_when_it_is_cheap() -> None:
    engine = simulated(cheap, 0.7)
    assert engine.run(300).drafted_share > 0.95
    engine.machine.row_cost = dear
    engine.run(300)
    off = engine.run(1500)
    assert off.drafted_share < 0.02
    plain = simulated(dear, 0.7, "off").run(1500)
    assert off.seconds / off.tokens < 1.02 * plain.seconds / plain.tokens
    engine.machine.row_cost = cheap
    engine.run(2000)
    assert engine.run(300).drafted_share > 0.95


def test_probing_takes_a_bounded_share_of_the_time() -> None:
    engine = simulated(dear, 0.3)
    engine.run(100)
    for sequences in (1, 3):
        off = engine.run(3000, sequences)
        assert 0 < off.drafted_share < 0.012
    before = engine.policy.report()["probes"]
    for step in range(4000):
        engine.run(1, 1 + step // 3 % 2)
    assert 0 < engine.policy.report()["probes"] - before < 30


def test_probes_become_rarer_while_they_find_nothing() -> None:
    engine = simulated(dear, 0.3)
    engine.machine.outliers = 0.0
    steps = np.flatnonzero(engine.run(12000).drafted)
    gaps = np.diff(steps)[np.diff(steps) > 1]
    assert len(gaps) >= 3
    assert min(gaps[1:]) > 1.5 * gaps[0]


def test_while_it_is_far_from_worth_it_few_steps_are_decided_and_few_sequences_followed() -> None:
    engine = simulated(dear, 0.3)
    assert all(engine.policy.follows() for _ in range(16)), "nothing is known yet"
    engine.run(12000)
    rested = 0
    for _ in range(1000):
        if engine.policy.rests(arrived=False):
            engine.policy.passed(engine.machine.seconds(1, 0))
            rested += 1
        else:
            engine.run(1)
    assert rested > 980
    assert sum(engine.policy.follows() for _ in range(640)) == 20
    engine.machine.row_cost = cheap
    engine.run(15000)
    assert all(engine.policy.follows() for _ in range(16))


def test_a_better_drafter_is_found_out_at_once() -> None:
    engine = simulated(middling, 0.05)
    engine.run(1500)
    assert engine.run(300).drafted_share < 0.05
    engine.drafter = KnownDrafter(engine.machine.rng, 0.85)
    engine.calibration = engine.calibration.heir()
    engine.policy.drafter_changed()
    engine.run(60)
    assert engine.run(300).drafted_share > 0.95


@pytest.mark.parametrize("says", [lambda p: p, lambda p: p**0.15], ids=["honest", "boastful"])
@pytest.mark.parametrize("sequences", [1, 8, 16])
@pytest.mark.parametrize("row_cost", [cheap, middling])
def test_it_wakes_from_a_stale_drafter_as_soon_as_a_better_one_is_swapped_in(
    row_cost: Callable[[int], float], sequences: int, says: Callable[[float], float]
) -> None:
    engine = simulated(row_cost, 0.03, says=says)
    engine.run(1500, sequences)
    assert engine.run(200, sequences).drafted_share < 0.1
    engine.drafter = KnownDrafter(engine.machine.rng, 0.85, says)
    # What it promises is believed no more than what the stale one promised.
    engine.calibration = engine.calibration.heir()
    engine.policy.drafter_changed()
    assert engine.run(200, sequences).drafted_share > 0.9


def test_trials_of_drafters_that_are_no_better_cost_little() -> None:
    engine = simulated(middling, 0.03, says=lambda p: p**0.15)
    engine.machine.outliers = 0.0
    engine.run(1500, 8)
    for _ in range(10):
        engine.drafter = KnownDrafter(engine.machine.rng, 0.03, engine.drafter.says)
        engine.calibration = engine.calibration.heir()
        engine.policy.drafter_changed()
        done = engine.run(300, 8)
        lost = done.seconds - done.tokens / 8 * middling(8)
        assert any(done.drafted[:2]) and not any(done.drafted[-50:])
        assert lost < 20 * middling(8)


def test_it_does_not_flap_near_break_even() -> None:
    engine = simulated(lambda rows: 1.0 + 0.075 * rows, 0.24)
    engine.run(200)
    drafted = engine.run(3000).drafted
    switches = sum(a != b for a, b in itertools.pairwise(drafted))
    assert switches < 150


def test_a_plain_step_now_and_then_keeps_the_plain_cost_known() -> None:
    engine = simulated(cheap, 0.8)
    engine.machine.outliers = 0.0
    engine.run(200)
    engine.machine.row_cost = lambda rows: 0.25 if rows == 1 else cheap(rows)
    engine.run(2500)
    assert engine.run(500).drafted_share < 0.1


def test_modes_force_it() -> None:
    always, off = simulated(dear, 0.5, "always"), simulated(cheap, 0.9, "off")
    assert set(always.run(50, 3).nodes) == {3 * NODES}
    assert set(off.run(50, 3).nodes) == {0}
    assert always.policy.report()["buckets"] == {str(3 * NODES): 50}
    assert off.policy.report() == {"buckets": {"0": 50}, "probes": 0, "yield": None}


def test_no_sequences_no_drafting() -> None:
    for mode in ("auto", "always", "off"):
        policy = SpeculationPolicy(CostModel(StepProfile((1,), (1.0,))), NODES, mode)  # type: ignore[arg-type]
        assert not policy.plan(0, others=2)
        policy.observe(1.0, 2)
        assert not policy.plan(0)
        policy.observe(1.0, 0, typical=False)
        assert policy.report()["buckets"] == {"0": 1}


def test_the_histogram_counts_every_step_and_the_yield_is_near_one() -> None:
    engine = simulated(bending, 0.6)
    nodes = engine.run(700, 2).nodes
    report = engine.policy.report()
    assert {int(k): v for k, v in report["buckets"].items()} == {n: nodes.count(n) for n in set(nodes)}
    assert report["yield"] == pytest.approx(1.0, abs=0.12)


def test_the_last_decision_is_known() -> None:
    engine = simulated(cheap, 0.8)
    engine.run(50, 2)
    engine.policy.plan(2, others=1)
    trees = engine.drafter.draft(2)
    values = engine.calibration.values(trees.logprob_SN, trees.parent_SN, trees.depth_SN)
    total = engine.policy.select(values.tolist(), trees.parent_SN.tolist()).total
    last = engine.policy.last
    assert (last.sequences, last.others, last.drafted, last.nodes) == (2, 1, True, total)
    best = np.sort(values.ravel())[::-1][:total].sum()
    assert last.expected == pytest.approx(3 + best)


def random_values(
    rng: np.random.Generator, sequences: int, nodes: int, ties: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Values and parents of trees; with `ties` many nodes are worth the same as their parents."""
    parent = np.array([[rng.integers(-1, n) if n else -1 for n in range(nodes)] for _ in range(sequences)])
    value = np.ones((sequences, nodes))
    for s, n in itertools.product(range(sequences), range(nodes)):
        step = rng.choice([1.0, 0.5]) if ties else rng.uniform(0.05, 0.95)
        value[s, n] = step * (value[s, parent[s, n]] if parent[s, n] >= 0 else 1.0)
    return value, parent


def fresh_policy(row_cost: Callable[[int], float], nodes: int) -> SpeculationPolicy:
    machine = Machine(np.random.default_rng(0), row_cost)
    return SpeculationPolicy(CostModel(machine.profile()), nodes)


@pytest.mark.parametrize("seed", range(12))
def test_the_first_allocation_is_the_best_closed_set_there_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sequences, nodes = [(1, 8), (2, 5), (3, 3)][seed % 3]
    value, parent = random_values(rng, sequences, nodes)
    slope = float(rng.uniform(0.02, 0.5))
    policy = fresh_policy(lambda rows: 1.0 + slope * rows, nodes)
    assert policy.plan(sequences)
    selection = policy.select(value.tolist(), parent.tolist())
    best = 0.0
    for chosen in itertools.product((False, True), repeat=sequences * nodes):
        kept = np.array(chosen).reshape(sequences, nodes)
        above = parent[kept]
        rows = np.nonzero(kept)[0]
        if not all(p < 0 or kept[s, p] for s, p in zip(rows, above, strict=True)):
            continue
        seconds = 1.0 + slope * (sequences + kept.sum()) + 0.3 + 0.02 * sequences
        best = max(best, (sequences + value[kept].sum()) / seconds)
    seconds = 1.0 + slope * (sequences + selection.total) + 0.3 + 0.02 * sequences
    tokens = sequences + sum(value[row, kept].sum() for row, kept in enumerate(selection.kept))
    assert tokens / seconds == pytest.approx(best)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("sequences", [1, 4])
def test_selections_are_closed_compact_and_renumbered(sequences: int, ties: bool) -> None:
    rng = np.random.default_rng(sequences)
    sizes = set()
    for _ in range(60):
        value, parent = random_values(rng, sequences, NODES, ties)
        value[:, 8:][rng.random((sequences, NODES - 8)) < 0.3] = 0.0
        for s, n in itertools.product(range(sequences), range(NODES)):
            if parent[s, n] >= 0:
                value[s, n] = min(value[s, n], value[s, parent[s, n]])
        slope = float(rng.uniform(0.01, 1.0))
        policy = fresh_policy(lambda rows, slope=slope: 1.0 + slope * rows, NODES)
        policy.plan(sequences)
        selection = policy.select(value.tolist(), parent.tolist())
        sizes.add(selection.total)
        assert sum(selection.counts) == selection.total
        for row, (kept, parents) in enumerate(zip(selection.kept, selection.parents, strict=True)):
            assert (value[row, kept] > 0).all()
            assert kept == sorted(set(kept))
            for place, (node, above) in enumerate(zip(kept, parents, strict=True)):
                assert -1 <= above < place
                assert (kept[above] if above >= 0 else -1) == parent[row, node]
    assert len(sizes) > 3


def test_good_sequences_get_the_nodes_of_bad_ones() -> None:
    parent = np.array([[-1, 0, 1, 2]] * 2)
    value = np.array([[0.9, 0.8, 0.7, 0.6], [0.05, 0.01, 0.01, 0.01]])
    policy = fresh_policy(lambda rows: 1.0 + 0.1 * rows, 4)
    policy.plan(2)
    selection = policy.select(value.tolist(), parent.tolist())
    assert selection.counts == [4, 0]
    assert selection.as_drafted([[0, 1], []]) == [[0, 1], []]


def test_prompt_rows_do_not_make_nodes_look_cheap() -> None:
    engine = simulated(bending, 0.6)
    engine.run(200)
    trees = engine.drafter.draft(1)
    values = engine.calibration.values(trees.logprob_SN, trees.parent_SN, trees.depth_SN)
    engine.policy.plan(1)
    alone = engine.policy.select(values.tolist(), trees.parent_SN.tolist()).total
    engine.policy.plan(1)
    beside = engine.policy.select(values.tolist(), trees.parent_SN.tolist(), prompt_rows=100).total
    assert beside < alone


@pytest.mark.parametrize("mode", ["auto", "always"])
def test_no_more_nodes_than_there_is_room_for(mode: SpeculationMode) -> None:
    value, parent = random_values(np.random.default_rng(0), 2, NODES)
    policy = fresh_policy(lambda rows: 1.0, NODES)
    policy.mode = mode
    for limit in (7, 0, -1):
        policy.plan(2)
        assert policy.select(value.tolist(), parent.tolist(), limit=limit).total == max(0, limit)


def test_walks_are_told_in_nodes_as_drafted() -> None:
    selection = Selection([[1, 3], [], [0]], [[-1, 0], [], [-1]])
    assert selection.as_drafted([[0, 1], [], [0]]) == [[1, 3], [], [0]]
