"""The walk accepts exactly the path that the target would have taken."""

import random

from online_draft.decoding.verification import walk


def target(row_path: tuple[int, ...]) -> int:
    """A target that is a pure function of the path below the root."""
    return random.Random(repr(row_path)).randrange(3)


def test_walk_emits_what_plain_decoding_would_on_random_trees() -> None:
    rng = random.Random(1)
    longest = 0
    for _ in range(300):
        tokens: list[int] = []
        parents: list[int] = []
        paths: list[tuple[int, ...]] = []
        for _ in range(rng.randrange(0, 12)):
            parent = rng.randrange(-1, len(tokens))
            path = ((paths[parent]) if parent >= 0 else ()) + (rng.randrange(3),)
            if path in paths:
                continue
            tokens.append(path[-1])
            parents.append(parent)
            paths.append(path)
        found = walk(lambda row, depth, paths=paths: target(paths[row - 1] if row else ()), tokens, parents)
        expected: tuple[int, ...] = ()
        for token in found.tokens:
            assert token == target(expected)
            expected = (*expected, token)
        assert [paths[node] for node in found.nodes] == [expected[: i + 1] for i in range(len(found.nodes))]
        unreached = [i for i, path in enumerate(paths) if path == expected]
        assert not any(parents[i] == (found.nodes[-1] if found.nodes else -1) for i in unreached)
        longest = max(longest, len(found.nodes))
    assert longest >= 3


def test_an_empty_tree_gives_one_token() -> None:
    assert walk(lambda row, depth: 9, [], []).tokens == [9]
