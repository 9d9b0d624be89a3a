"""Draft trees: closed, distinct, and the best there are."""

import itertools

import pytest
import torch

from online_draft.decoding.drafting.tree import build_trees
from online_draft.models.drafter import Draft, MarkovTerm


def random_draft(sequences: int, heads: int, vocab: int, seed: int, markov: bool) -> Draft:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(sequences, heads, vocab, generator=generator, dtype=torch.float64) * 2
    term = None
    if markov:
        term = MarkovTerm(
            torch.randn(vocab, 3, generator=generator, dtype=torch.float64),
            torch.randn(vocab, 3, generator=generator, dtype=torch.float64),
        )
    return Draft(base, term)


@pytest.mark.parametrize("markov", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_wide_tree_holds_the_most_probable_paths(markov: bool, seed: int) -> None:
    nodes, heads, vocab = 12, 3, 6
    draft = random_draft(2, heads, vocab, seed, markov)
    roots = torch.tensor([1, 4])
    trees = build_trees(draft, roots, nodes, width=vocab**heads)
    for s in range(2):
        paths = {}
        for length in range(1, heads + 1):
            for path in itertools.product(range(vocab), repeat=length):
                score, parent = 0.0, int(roots[s])
                for depth, token in enumerate(path):
                    logp = draft.log_probs(depth, torch.full((2, 1), parent))
                    score += float(logp[s, 0, token])
                    parent = token
                paths[path] = score
        best = sorted(paths.values(), reverse=True)[:nodes]
        assert torch.allclose(trees.logprob_SN[s].sort(descending=True).values, torch.tensor(best).double())
        for node in range(nodes):
            assert abs(paths[path_of(trees, s, node)] - float(trees.logprob_SN[s, node])) < 1e-9


@pytest.mark.parametrize("markov", [False, True])
def test_parents_come_first_children_are_distinct_and_depths_fit(markov: bool) -> None:
    trees = build_trees(random_draft(3, 5, 50, 9, markov), torch.tensor([0, 7, 9]), 16, 8)
    assert trees.token_SN.shape == (3, 16)
    for s in range(3):
        paths = [path_of(trees, s, node) for node in range(16)]
        assert len(set(paths)) == 16
        for node in range(16):
            assert int(trees.parent_SN[s, node]) < node
            assert int(trees.depth_SN[s, node]) == len(paths[node])


def test_a_certain_child_never_crowds_out_its_parent() -> None:
    """log p = 0 on every level: child and parent tie, the parent must be kept."""
    base = torch.full((1, 5, 20), -1e9)
    base[:, :, 3] = 0.0
    trees = build_trees(Draft(base), torch.tensor([0]), 3, 8)
    assert path_of(trees, 0, 2) == (3, 3, 3)


def test_rows_see_their_ancestors_and_nothing_else() -> None:
    trees = build_trees(random_draft(2, 4, 30, 2, True), torch.tensor([5, 6]), 10, 5)
    sees = trees.ancestors()
    for s in range(2):
        for row in range(11):
            expected = {0, row}
            node = row - 1
            while node >= 0:
                expected.add(node + 1)
                node = int(trees.parent_SN[s, node])
            assert set(sees[s, row].nonzero()[:, 0].tolist()) == expected


def path_of(trees, s: int, node: int) -> tuple[int, ...]:
    path: tuple[int, ...] = ()
    while node >= 0:
        path = (int(trees.token_SN[s, node]), *path)
        node = int(trees.parent_SN[s, node])
    return path
