"""The exact acceptance walk.

At every node the target's own choice x = argmax(log p + g) is emitted; if the tree has x as a child the
walk goes on there, else x is the next root. No drafter probability enters, so a drafter in any state can
change only how many tokens one step commits. For a fixed tree no lossless rule accepts more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Walk:
    """`tokens` in order, the last one the new root; `nodes` the accepted nodes' indices (one fewer)."""

    tokens: list[int]
    nodes: list[int]


def walk(
    choose_row: Callable[[int, int], int],
    node_tokens: Sequence[int],
    node_parents: Sequence[int],
) -> Walk:
    """Walk one tree. `choose_row(row, depth)` gives the target's token at row 0 (the root) or node row i + 1.

    A node's children are found by token id. Costs one choice per committed token.
    """
    tokens: list[int] = []
    nodes: list[int] = []
    current = -1
    while True:
        token = choose_row(current + 1, len(nodes))
        tokens.append(token)
        for node in range(current + 1, len(node_tokens)):
            if node_parents[node] == current and node_tokens[node] == token:
                nodes.append(node)
                current = node
                break
        else:
            return Walk(tokens, nodes)
