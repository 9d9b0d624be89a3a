"""Continuations of several occurrences become one tree, the most promising nodes first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from math import exp, log

from online_draft.models.ngram.index import EDGE, Continuation
from online_draft.models.ngram.tree import (
    MATCH_BIT,
    MOST_MATCHED,
    SOURCE_BIT,
    SUPPORT_BIT,
    WHOLE,
    NgramTree,
)

_TRUST = [0.5, 0.5, 0.55, 0.65, 0.75, 0.8, 0.85, 0.85, *[0.95] * (MOST_MATCHED - 7)]
"""How often one occurrence's next token is right behind an accepted one, by length of the match; measured on
prose, code, SQL, stories and word problems. It settles what is cut off, nothing else."""
_LONE_FADE = [log(trust) for trust in _TRUST]
_FADE = [log((1 + trust) / 2) for trust in _TRUST]
"""The same where several occurrences agree; both as logarithms."""


def merge(found: Sequence[Continuation], nodes: int, least_worth: float) -> NgramTree:
    """A trie of what followed, given longest match first; of its nodes the best, at most `nodes`.

    A node is worth the product of the shares along its path, less by and by with depth; those worth less than
    `least_worth` are left out. A match weighs four times as much as one a token shorter. Runs without a fork
    are taken in one piece, which is what makes this fast.
    """
    group = list(found)
    whole = _weight(group)
    worth, depth, parent, order = 1.0, 0, -1, 0
    token_M: list[int] = []
    parent_M: list[int] = []
    depth_M: list[int] = []
    evidence_M: list[int] = []
    forks: list[tuple[float, int, list[Continuation], int, int, int, int]] = []
    while group:
        for part in _parts(group, depth):
            weight = 1 << 2 * part[0][0] if len(part) == 1 else _weight(part)
            value = worth * weight / whole
            if value >= least_worth:
                order += 1
                heappush(forks, (-value, order, part, weight, weight * WHOLE // whole, depth, parent))
        group = []
        while forks and not group and len(token_M) < nodes:
            value, _, part, whole, share, depth, parent = heappop(forks)
            match, text, source = part[0]
            fade = _LONE_FADE[match] if len(part) == 1 else _FADE[match]
            end = depth + 1 + int(log(-least_worth / value) / fade)
            if len(part) > 1 and (agreed := _agreed(part)) <= end:
                end, group = agreed, part
            run = text[depth:end]
            if EDGE in run:
                run, group = run[: run.index(EDGE)], []
                if not run:
                    continue
            start, length = len(token_M), len(run)
            behind = match << MATCH_BIT | source << SOURCE_BIT | len(part) << SUPPORT_BIT
            token_M += run
            depth_M += range(depth + 1, depth + length + 1)
            parent_M.append(parent)
            evidence_M.append(behind + share)
            if length > 1:
                parent_M += range(start, start + length - 1)
                evidence_M += [behind + WHOLE] * (length - 1)
            if group:
                depth += length
                parent = start + length - 1
                worth = -value * exp(fade * (length - 1))
    if len(token_M) > nodes:
        del token_M[nodes:], parent_M[nodes:], depth_M[nodes:], evidence_M[nodes:]
    return NgramTree(token_M, parent_M, depth_M, evidence_M)


def _weight(found: list[Continuation]) -> int:
    return sum([1 << 2 * match for match, _, _ in found])


def _parts(group: list[Continuation], depth: int) -> Iterable[list[Continuation]]:
    """A group by its members' token behind `depth`, without those that end there."""
    parts: dict[int, list[Continuation]] = {}
    for one in group:
        text = one[1]
        if depth < len(text):
            token = text[depth]
            if token in parts:
                parts[token].append(one)
            else:
                parts[token] = [one]
    return parts.values()


def _agreed(part: list[Continuation]) -> int:
    """How many tokens all have in common at the beginning."""
    texts = [text for _, text, _ in part]
    low, high = min(texts), max(texts)
    if low == high:
        return len(low)
    for at, token in enumerate(low):
        if token != high[at]:
            return at
    return len(low)
