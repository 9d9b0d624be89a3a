"""The nodes that a step could verify: those of the heads and those of the n-gram memory, in one tree each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from online_draft.decoding.drafting.forest import DraftedTrees, Forest
from online_draft.decoding.drafting.ngrams import Proposal
from online_draft.decoding.drafting.selection import Selection

Ints = list[list[int]]


@dataclass(frozen=True, slots=True)
class Candidates:
    """One tree per sequence, as lists. Parents (-1 the root) come before children, which are distinct and
    worth no more.

    A node's value is the calibrated probability that its path is accepted, 0 where there is no node. `heads`
    are each tree's first nodes that the heads drafted: the memory alone proposes those behind.
    """

    tokens: Ints
    parents: Ints
    depths: Ints
    values: list[list[float]]
    heads: int

    def keep(self, selection: Selection) -> Forest:
        """The selected nodes."""
        tokens: list[int] = []
        depths: list[int] = []
        for row, nodes in enumerate(selection.kept):
            row_tokens, row_depths = self.tokens[row], self.depths[row]
            tokens += [row_tokens[node] for node in nodes]
            depths += [row_depths[node] for node in nodes]
        parents = [parent for row in selection.parents for parent in row]
        heads = self.heads
        ngram = None
        if any(nodes and nodes[-1] >= heads for nodes in selection.kept):
            ngram = [node >= heads for nodes in selection.kept for node in nodes]
        return Forest(selection.counts, tokens, parents, depths, ngram)


def proposed(proposals: Mapping[int, Proposal]) -> Candidates:
    """Nothing but proposals, of one sequence after the other."""
    trees = [proposal.tree for proposal in proposals.values()]
    return Candidates(
        [tree.token_M for tree in trees],
        [tree.parent_M for tree in trees],
        [tree.depth_M for tree in trees],
        [proposal.values for proposal in proposals.values()],
        0,
    )


def drafted(trees: DraftedTrees, values: list[list[float]]) -> Candidates:
    """What the heads drafted, with its calibrated values."""
    return Candidates(
        trees.token_SN.tolist(), trees.parent_SN.tolist(), trees.depth_SN.tolist(), values, trees.nodes
    )


def merged(
    trees: Candidates, rows: list[int], proposals: Mapping[int, Proposal], count: int, most: int
) -> Candidates:
    """The union of the heads' trees and proposals by path; a node's value is the larger of the two.

    The heads drafted for `rows` of `count` sequences. Their nodes keep their places; further ones follow. Of
    a sequence's nodes the best `most` stay. The larger value is right where the two sources are right about
    the same texts, as they mostly are; and a child's stays below its parent's.
    """
    heads = trees.heads
    blank = [-1] * heads
    tokens: Ints = [[0] * heads for _ in range(count)]
    parents: Ints = [blank for _ in range(count)]
    depths: Ints = [[1] * heads for _ in range(count)]
    values: list[list[float]] = [[0.0] * heads for _ in range(count)]
    for index, row in enumerate(rows):
        tokens[row], parents[row] = trees.tokens[index], trees.parents[index]
        depths[row], values[row] = trees.depths[index], trees.values[index]
    for row, proposal in proposals.items():
        tokens[row], parents[row] = list(tokens[row]), list(parents[row])
        depths[row], values[row] = list(depths[row]), list(values[row])
        _add(proposal, tokens[row], parents[row], depths[row], values[row])
        if len(values[row]) - values[row].count(0.0) > most:
            best = sorted(range(len(values[row])), key=values[row].__getitem__, reverse=True)
            for node in best[most:]:
                values[row][node] = 0.0
    return Candidates(tokens, parents, depths, values, heads)


def _add(
    proposal: Proposal, tokens: list[int], parents: list[int], depths: list[int], values: list[float]
) -> None:
    """Put a proposal's nodes into a tree."""
    children = {
        (parent, token): node
        for node, (parent, token) in enumerate(zip(parents, tokens, strict=True))
        if values[node] > 0
    }
    tree = proposal.tree
    place = [-1]
    for token, parent, depth, value in zip(
        tree.token_M, tree.parent_M, tree.depth_M, proposal.values, strict=True
    ):
        above = place[parent + 1]
        node = children.get((above, token), -1)
        if node < 0:
            node = len(tokens)
            tokens.append(token)
            parents.append(above)
            depths.append(depth)
            values.append(value)
        elif value > values[node]:
            values[node] = value
        place.append(node)
