"""Chats packed into rows of two lengths, each document attending to itself alone; seekable by chat number."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from tokenizers import Tokenizer
from torch import Tensor

from online_draft.models.embedded.domains import DOMAINS
from online_draft.models.embedded.recipe.corpus import Mixer
from online_draft.models.embedded.recipe.tokenizer import PAD_ID, encode_chat

ROWS = {256: 8, 1024: 2}
"""Rows of a micro-batch by row length: 2,048 tokens either way."""

PROMPT_WEIGHT = 0.1


@dataclass
class Document:
    """One encoded chat: ids, loss weight of each id as a target, index of its domain."""

    ids: list[int]
    weights: list[float]
    domain: int


@dataclass
class MicroBatch:
    """Tensors [B, T] of a micro-batch: ids, targets, loss weights, document number (0 = padding), domain."""

    ids: Tensor
    targets: Tensor
    weights: Tensor
    documents: Tensor
    domains: Tensor


@dataclass
class Packer:
    """Yields micro-batches from a Mixer; `position` is the next chat's number, which a checkpoint stores."""

    mixer: Mixer
    tokenizer: Tokenizer
    position: int = 0
    pools: dict[int, list[Document]] = field(default_factory=lambda: {length: [] for length in ROWS})

    def _next(self) -> Document:
        domain, messages = self.mixer.chat(self.position)
        self.position += 1
        ids, mine = encode_chat(self.tokenizer, messages)
        weights = [1.0 if flag else PROMPT_WEIGHT for flag in mine]
        return Document(ids, weights, DOMAINS.index(domain))

    def next(self) -> MicroBatch:
        """The next micro-batch: of the first row length whose pool holds enough tokens."""
        while True:
            for length, pool in self.pools.items():
                if sum(len(document.ids) for document in pool) >= ROWS[length] * length * 1.5:
                    return self._pack(length, pool)
            document = self._next()
            fitting = [length for length in ROWS if len(document.ids) <= length + 1]
            if fitting:
                self.pools[fitting[0]].append(document)

    def _pack(self, length: int, pool: list[Document]) -> MicroBatch:
        """Fill rows first-fit from the oldest documents; what does not fit stays in the pool."""
        count = ROWS[length]
        shape = (count, length)
        ids, targets = torch.full(shape, PAD_ID), torch.full(shape, PAD_ID)
        weights, documents, domains = (
            torch.zeros(shape),
            torch.zeros(shape, dtype=torch.long),
            torch.zeros(shape).long(),
        )
        used, number = [0] * count, 0
        left: list[Document] = []
        for document in pool:
            size = len(document.ids) - 1
            row = next((row for row in range(count) if used[row] + size <= length), None)
            if row is None:
                left.append(document)
                continue
            number += 1
            span = slice(used[row], used[row] + size)
            ids[row, span] = torch.tensor(document.ids[:-1])
            targets[row, span] = torch.tensor(document.ids[1:])
            weights[row, span] = torch.tensor(document.weights[1:])
            documents[row, span] = number
            domains[row, span] = document.domain
            used[row] += size
        pool[:] = left
        return MicroBatch(ids, targets, weights, documents, domains)
