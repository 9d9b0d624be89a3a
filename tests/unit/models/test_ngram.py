"""The n-gram memory: what followed where the same words stood before."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from online_draft.errors import ConfigError
from online_draft.models.ngram import REQUEST, TENANT, NgramConfig, NgramMemory, NgramTree
from online_draft.models.ngram.index import BEHIND, EDGE, ContextIndex, Continuation
from online_draft.models.ngram.merge import merge

SMALL = NgramConfig(max_match=4, occurrences=3, depth=5, least_worth=0.001, tenant_tokens=200)


def matched(tokens: list[int], place: int, text: list[int], longest: int) -> int:
    """Reference: tokens that the context of a place and the end of a text have in common."""
    count = 0
    while (
        count < min(longest, place, len(text))
        and tokens[place - 1 - count] == text[-1 - count]
        and text[-1 - count] != EDGE
    ):
        count += 1
    return count


def looked_through(
    index: ContextIndex, text: list[int], longest: int, least: int, wanted: int, depth: int
) -> list[Continuation]:
    """Reference for `find`: compares every place."""
    tokens = index.tokens
    places = [place for place in index.places if tokens[place] != EDGE]
    found = sorted(
        ((matched(tokens, place, text, longest), place) for place in places),
        key=lambda one: (-one[0], -one[1]),
    )
    least = max(least, found[0][0] - BEHIND) if found else least
    return [
        (match, tuple(tokens[place : place + min(depth, 2 * match + 2)]), REQUEST)
        for match, place in found[:wanted]
        if match >= least
    ]


def paths(tree: NgramTree) -> list[tuple[int, ...]]:
    """The tokens from the root to every node."""
    found: list[tuple[int, ...]] = []
    for token, parent in zip(tree.token_M, tree.parent_M, strict=True):
        found.append((*(found[parent] if parent >= 0 else ()), token))
    return found


def assert_well_formed(tree: NgramTree, nodes: int, depth: int) -> None:
    assert tree.nodes <= nodes
    parents = tree.parent_M
    assert all(-1 <= parent < node for node, parent in enumerate(parents))
    assert len(set(zip(parents, tree.token_M, strict=True))) == tree.nodes
    assert tree.depth_M == [len(path) for path in paths(tree)]
    assert max(tree.depth_M, default=0) <= depth
    assert min(tree.token_M, default=0) >= 0
    for column in tree:
        assert len(column) == tree.nodes
    shares = np.zeros(tree.nodes + 1)
    for node, parent in enumerate(parents):
        shares[parent] += tree.share_M[node]
        if parent >= 0:
            assert tree.support_M[node] <= tree.support_M[parent]
            assert tree.match_M[node] <= tree.match_M[parent]
    assert (shares <= 1).all()


def answered(
    memory: NgramMemory, tenant: str, prompt: list[int], output: list[int], keep: bool = True
) -> None:
    """A whole request."""
    memory.open("whole", tenant, prompt)
    memory.extend("whole", output)
    memory.close("whole", keep)


def after(memory: NgramMemory, tenant: str, prompt: list[int], nodes: int = 32) -> NgramTree:
    """What is proposed behind a prompt."""
    memory.open("probe", tenant, prompt)
    tree = memory.propose("probe", nodes)
    memory.close("probe", keep=False)
    return tree


@pytest.mark.parametrize("letters", [2, 3, 8])
@pytest.mark.parametrize(("longest", "recent"), [(1, 2), (4, 3), (9, 6)])
def test_finds_what_comparing_every_place_finds(letters: int, longest: int, recent: int) -> None:
    rng = Random(letters * longest)
    index = ContextIndex(longest, recent, 10_000, REQUEST)
    for step in range(250):
        if step % 40 == 39:
            index.end()
        index.extend([rng.randrange(letters) for _ in range(rng.randint(1, 4))])
        for text in (index.tokens, [EDGE, *(rng.randrange(letters) for _ in range(rng.randint(0, 12)))]):
            for least in (1, 3):
                expected = looked_through(index, text, longest, least, recent, 6)
                assert index.find(text, least, recent, 6) == expected
    index.check_integrity()


@pytest.mark.parametrize("letters", [2, 6, 40])
@pytest.mark.parametrize("capacity", [40, 150])
def test_finds_the_same_after_evictions(letters: int, capacity: int) -> None:
    rng = Random(letters)
    index = ContextIndex(5, 4, capacity, REQUEST)
    fed = [EDGE]
    for step in range(400):
        tokens = [rng.randrange(letters) for _ in range(rng.randint(1, 9))]
        if rng.random() < 0.1:
            index.end()
            fed.append(EDGE)
        index.extend(tokens)
        fed += tokens
        assert index.tokens == fed[-len(index.tokens) :]
        assert capacity - 65 <= len(index.tokens) <= capacity or index.evicted == 0
        assert index.find(index.tokens, 1, 4, 6) == looked_through(index, index.tokens, 5, 1, 4, 6)
        if step % 20 == 0:
            index.check_integrity()
    assert index.evicted + len(index.tokens) == len(fed)


class CountingDict(dict[int, int]):
    reads = 0

    def get(self, key: int, default: int | None = None) -> int | None:
        self.reads += 1
        return super().get(key, default)


def test_steps_take_as_long_as_their_match_whatever_is_stored() -> None:
    rng = Random(0)
    index = ContextIndex(8, 4, 10**6, REQUEST)
    reads = []
    for _ in range(20):
        index.extend([rng.randrange(1000) for _ in range(1000)])
        index._children = children = CountingDict(index._children)
        index.extend([rng.randrange(1000) for _ in range(100)])
        index.find(index.tokens, 1, 4, 8)
        reads.append(children.reads / 101)
    assert max(reads) < 3
    index.extend([7] * 1000)
    index._children = children = CountingDict(index._children)
    index.extend([7] * 100)
    assert children.reads == 800


def test_a_text_longer_than_the_capacity_leaves_its_end() -> None:
    index = ContextIndex(4, 3, 50, REQUEST)
    index.extend(list(range(20)))
    index.extend([number % 7 for number in range(500)], context=3)
    index.check_integrity()
    assert index.evicted + len(index.tokens) == 521
    assert index.tokens[-30:] == [number % 7 for number in range(470, 500)]
    found = index.find(index.tokens, 1, 3, 3)
    assert [match for match, _, _ in found] == [4, 4, 4]
    assert {text for _, text, _ in found} == {tuple(number % 7 for number in range(500, 503))}


@pytest.mark.parametrize("seed", range(8))
def test_trees_hold_the_continuations_and_are_well_formed(seed: int) -> None:
    rng = Random(seed)
    memory = NgramMemory(SMALL)
    for _ in range(3):
        answered(memory, "a", [], [rng.randrange(4) for _ in range(30)])
    memory.open(1, "a", [rng.randrange(4) for _ in range(20)])
    for _ in range(60):
        memory.extend(1, [rng.randrange(4) for _ in range(rng.randint(1, 3))])
        whole = memory.propose(1, 100)
        assert_well_formed(whole, 100, 5)
        for nodes, depth in ((1, 5), (4, 2), (7, 5)):
            tree = memory.propose(1, nodes, depth)
            assert_well_formed(tree, nodes, depth)
            assert tree.nodes == min(nodes, tree.nodes)
            assert set(paths(tree)) <= {path[:depth] for path in paths(whole)}


@pytest.mark.parametrize("seed", range(6))
def test_a_tree_is_the_trie_of_its_occurrences(seed: int) -> None:
    rng = Random(seed)
    matches = sorted((rng.randint(3, 4) for _ in range(6)), reverse=True)
    found = [(match, tuple(rng.randrange(3) for _ in range(rng.randint(1, 5))), TENANT) for match in matches]
    tree = merge(found, 100, 1e-9)
    expected = {text[:end] for _, text, _ in found for end in range(1, len(text) + 1)}
    assert set(paths(tree)) == expected
    for node, path in enumerate(paths(tree)):
        through = [match for match, text, _ in found if text[: len(path)] == path]
        above = [match for match, text, _ in found if text[: len(path) - 1] == path[:-1]]
        assert tree.support_M[node] == len(through)
        assert tree.match_M[node] == max(through)
        if tree.share_M[node] < 1:
            weights = [sum(4**match for match in part) for part in (through, above)]
            assert tree.share_M[node] == pytest.approx(weights[0] / weights[1], abs=1 / 64)
    assert set(tree.source_M) == {TENANT}


def test_the_request_itself_is_continued_from_its_first_repetition_on() -> None:
    memory = NgramMemory()
    memory.open(1, "a", [10, 11, 12, 13, 14, 15, 10])
    tree = memory.propose(1, 3)
    assert tree.token_M == [11, 12, 13]
    assert tree.parent_M == [-1, 0, 1]
    assert tree.depth_M == [1, 2, 3]
    assert tree.match_M == [1, 1, 1]
    assert tree.source_M == [REQUEST] * 3
    assert tree.support_M == [1, 1, 1]
    assert tree.share_M == [1.0, 1.0, 1.0]
    memory.extend(1, [11, 12])
    assert memory.propose(1, 3).token_M == [13, 14, 15]
    assert memory.propose(1, 3).match_M == [3, 3, 3]
    memory.extend(1, [99])
    assert memory.propose(1, 3).nodes == 0


def test_frequent_continuations_come_first_and_among_equals_the_newest() -> None:
    memory = NgramMemory(replace(SMALL, occurrences=6))
    memory.open(1, "a", [7, 1, 7, 2, 7, 1, 7, 3, 7])
    tree = memory.propose(1, 20, depth=1)
    assert tree.token_M == [1, 3, 2]
    assert tree.support_M == [2, 1, 1]
    np.testing.assert_allclose(tree.share_M, [0.5, 0.25, 0.25], atol=1 / 64)


def test_a_longer_match_outweighs_several_shorter_ones() -> None:
    memory = NgramMemory(SMALL)
    memory.open(1, "a", [5, 6, 1, 9, 6, 2, 8, 6, 2, 5, 6])
    tree = memory.propose(1, 20, depth=1)
    assert tree.token_M == [1, 2]
    assert tree.match_M == [2, 1]


def test_unlikely_nodes_are_left_out() -> None:
    found = [(2, (token, token, token, token), REQUEST) for token in range(5)]
    assert merge(found, 100, 0.19).nodes == 5
    assert merge(found, 100, 0.21).nodes == 0
    assert 5 < merge(found, 100, 0.05).nodes < 20


def test_a_tenants_outputs_are_continued_in_its_next_requests() -> None:
    memory = NgramMemory()
    answered(memory, "a", [1, 2, 3], [20, 21, 22, 23])
    tree = after(memory, "a", [9, 20, 21])
    assert tree.token_M == [22, 23]
    assert tree.source_M == [TENANT, TENANT]
    assert tree.match_M == [2, 2]


def test_an_output_is_found_by_the_end_of_its_prompt_which_is_not_proposed_itself() -> None:
    memory = NgramMemory()
    answered(memory, "a", [1, 2, 3, 4, 5], [20, 21])
    assert after(memory, "a", [8, 4, 5]).token_M == [20, 21]
    assert after(memory, "a", [8, 3, 4]).nodes == 0


def test_neither_matches_nor_continuations_cross_from_one_output_to_the_next() -> None:
    memory = NgramMemory(SMALL)
    answered(memory, "a", [], [1, 2, 3])
    answered(memory, "a", [], [4, 5, 6])
    assert paths(after(memory, "a", [1, 2])) == [(3,)]
    assert after(memory, "a", [2, 3]).nodes == 0
    assert after(memory, "a", [3, 4]).match_M == [1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_no_token_ever_reaches_another_tenant(seed: int) -> None:
    rng = Random(seed)
    memory = NgramMemory(replace(SMALL, max_tenants=3, tenant_tokens=60))
    shared = [1, 2]
    open_: dict[int, int] = {}
    proposed = 0
    for number in range(400):
        if len(open_) < 5:
            tenant = rng.randrange(4)
            open_[number] = tenant
            memory.open(number, f"tenant {tenant}", [rng.choice(shared) for _ in range(6)])
        key = rng.choice(list(open_))
        own = [*shared, *range(100 * (open_[key] + 1), 100 * (open_[key] + 1) + 3)]
        memory.extend(key, [rng.choice(own) for _ in range(rng.randint(1, 6))])
        tree = memory.propose(key, 30)
        assert set(tree.token_M) <= set(own)
        proposed += tree.source_M.count(TENANT)
        if rng.random() < 0.2:
            memory.close(key, keep=rng.random() < 0.8)
            del open_[key]
        if rng.random() < 0.02:
            memory.forget(f"tenant {rng.randrange(4)}")
        memory.check_integrity()
    assert proposed > 100


def test_of_a_request_that_opted_out_nothing_remains() -> None:
    memory = NgramMemory()
    answered(memory, "a", [1, 2], [3, 4, 1, 2, 3], keep=False)
    assert after(memory, "a", [1, 2]).nodes == 0
    assert (memory.stats().tenants, memory.stats().tenant_tokens, memory.stats().bytes) == (0, 0, 0)


def test_a_request_without_output_leaves_nothing() -> None:
    memory = NgramMemory()
    answered(memory, "a", [1, 2, 3], [])
    assert memory.stats().tenants == 0


def test_forgetting_a_tenant_erases_it_at_once_and_for_its_open_requests() -> None:
    memory = NgramMemory()
    for tenant in ("a", "b"):
        answered(memory, tenant, [1], [2, 3])
    memory.open("still open", "a", [1])
    assert memory.propose("still open", 4).nodes == 2
    memory.extend("still open", [2])
    memory.forget("a")
    memory.forget("unheard of")
    assert memory.propose("still open", 4).nodes == 0
    memory.close("still open", keep=True)
    assert after(memory, "a", [1]).nodes == 0
    assert after(memory, "b", [1]).nodes == 2


def test_the_tenant_heard_of_longest_ago_is_evicted() -> None:
    memory = NgramMemory(replace(SMALL, max_tenants=2))
    for tenant in ("a", "b"):
        answered(memory, tenant, [1], [2, 3])
    assert after(memory, "a", [1]).nodes == 2
    answered(memory, "c", [1], [2, 3])
    assert after(memory, "b", [1]).nodes == 0
    assert after(memory, "a", [1]).nodes == 2
    assert (memory.stats().tenants, memory.stats().evicted_tenants) == (2, 1)


def test_evicted_outputs_are_never_proposed() -> None:
    memory = NgramMemory(SMALL)
    for number in range(100):
        answered(memory, "a", [1], [1000 + number, 2, 3, 4, 5, 6, 7])
        memory.check_integrity()
    held = [number for number in range(100) if after(memory, "a", [1000 + number]).nodes]
    assert held == list(range(100 - len(held), 100))
    assert 10 < len(held) < 25


def test_what_is_held_stays_bounded_over_many_tokens() -> None:
    rng = Random(0)
    config = NgramConfig(request_tokens=1000, tenant_tokens=800, max_tenants=3, max_match=6)
    memory = NgramMemory(config)
    most = 0
    for number in range(100):
        memory.open(number, f"tenant {number // 5 % 5}", [rng.randrange(50) for _ in range(200)])
        for _ in range(6):
            memory.extend(number, [rng.randrange(1 + rng.randrange(50)) for _ in range(300)])
            memory.propose(number, 8)
        memory.close(number, keep=True)
        most = max(most, memory.stats().bytes)
        if number == 30:
            early = most
    memory.check_integrity()
    stats = memory.stats()
    assert stats.tenants == 3
    assert stats.tenant_tokens <= 2 * 3 * 800, "entered, and waiting to be"
    assert stats.evicted_tokens > 140_000
    assert stats.evicted_tenants == 17
    assert most < 1.5 * early < 2e6


def test_an_endless_request_stays_bounded() -> None:
    memory = NgramMemory(replace(SMALL, request_tokens=100))
    memory.open(1, "a", list(range(1000)))
    for number in range(3000):
        memory.extend(1, [number % 6, 6])
        assert memory.stats().request_tokens <= 100
    memory.check_integrity()
    assert memory.propose(1, 3).token_M == [0, 6, 1]
    memory.close(1, keep=True)
    assert memory.stats().tenant_tokens <= 200
    assert after(memory, "a", [4, 6]).token_M[:2] == [5, 6]


def test_proposing_changes_nothing() -> None:
    memory = NgramMemory(SMALL)
    answered(memory, "a", [], [1, 2, 3, 1, 2, 4])
    memory.open(1, "a", [3, 1, 2])
    memory.propose(1, 8)
    before = memory.stats()
    trees = [memory.propose(1, 8) for _ in range(3)]
    assert memory.stats() == before
    for tree in trees:
        assert tree == trees[0]


def test_no_nodes_and_no_depth_are_no_tree() -> None:
    memory = NgramMemory()
    memory.open(1, "a", [1, 1, 1, 1])
    assert memory.propose(1, 0).nodes == 0
    assert memory.propose(1, 4, depth=0).nodes == 0
    assert memory.propose(1, 4, depth=2).depth_M[-1] == 2


def test_short_matches_can_be_ruled_out() -> None:
    memory = NgramMemory(replace(SMALL, min_match=3))
    memory.open(1, "a", [1, 2, 3, 4, 9, 2, 3])
    assert memory.propose(1, 4).nodes == 0
    memory.extend(1, [4])
    assert memory.propose(1, 4).token_M == [9, 2, 3, 4]


def test_unknown_and_repeated_requests_are_refused() -> None:
    memory = NgramMemory()
    memory.open("known", "a", [1])
    with pytest.raises(ValueError, match="'known' is open already"):
        memory.open("known", "a", [1])
    memory.close("known", keep=True)
    for call in (
        lambda: memory.extend("known", [1]),
        lambda: memory.close("known", keep=True),
        lambda: memory.propose("known", 4),
    ):
        with pytest.raises(KeyError, match="request 'known' is not open"):
            call()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_match", 0),
        ("max_match", 32),
        ("occurrences", 1),
        ("occurrences", 16),
        ("depth", 0),
        ("least_worth", 0.0),
        ("request_tokens", 10),
        ("tenant_tokens", 71),
        ("max_tenants", 0),
    ],
)
def test_a_wrong_setting_is_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"ngram\.{field}: must be"):
        replace(NgramConfig(), **{field: value})
