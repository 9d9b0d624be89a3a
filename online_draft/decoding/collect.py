"""The walks of one step: what every sequence gained."""

from __future__ import annotations

from online_draft.decoding.choices import TargetChoices
from online_draft.decoding.commit import Commit
from online_draft.decoding.drafting.forest import Forest
from online_draft.decoding.plan import StepPlan
from online_draft.decoding.runners.base import Rows, Runner
from online_draft.decoding.verification import Walk, walk


def collect(
    plan: StepPlan,
    forest: Forest | None,
    rows: Rows,
    choices: TargetChoices,
    runner: Runner,
    commit: Commit,
) -> list[Walk]:
    """Choose tokens along every tree and behind every root and put them into `commit`.

    `runner` is the one that gave `rows`. Returns the walks of the trees.
    """
    walks: list[Walk] = []
    if forest is not None:
        first = 0
        for index, (tokens, parents, depths) in enumerate(forest.trees()):
            found = walk(choices.tree_row(index), tokens, parents)
            walks.append(found)
            commit.tree(
                plan.speculating[index],
                found,
                rows.tree_starts[index],
                len(tokens),
                max(depths, default=0),
                choices.tree_logprobs(index, found),
                None if forest.ngram is None else forest.ngram[first : first + len(tokens)],
            )
            first += len(tokens)
    root = 0
    for sequence in plan.plain:
        token = choices.root(root)
        commit.root(sequence, token, rows.plain_start + root, choices.root_logprobs(root, token))
        root += 1
    for chunk, first in zip(plan.chunks, rows.chunk_starts, strict=True):
        known = chunk.count - 1 if chunk.last else chunk.count
        if chunk.last:
            token = choices.root(root)
            logprobs = choices.root_logprobs(root, token)
            root += 1
        if known:
            wanted = chunk.sequence.prompt_logprobs
            if wanted is not None:
                wanted.take(chunk.start, rows.hidden_NF[first : first + known], runner.logits)
            commit.prompt(chunk.sequence, first, known)
        if chunk.last:
            commit.root(chunk.sequence, token, first + known, logprobs)
    return walks
