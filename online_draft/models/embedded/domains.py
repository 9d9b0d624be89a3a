"""Prompts with reference answers for the embedded target's four domains: seeded, ours, no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count as naturals
from random import Random
from typing import Literal

from online_draft.models.embedded.generators import math, python, sql, story

Split = Literal["train", "heldout"]

DOMAINS = ("sql", "math", "python", "story")
HELDOUT_SHARE = 0.05
"""Share of prompts, by hash of their text, that training never sees."""

_WRITERS: dict[str, Callable[[Random], tuple[str, str]]] = {
    "sql": sql.write,
    "math": math.write,
    "python": python.write,
    "story": story.write,
}


@dataclass(frozen=True)
class Example:
    """One prompt of a domain with the answer that the target is trained to give."""

    domain: str
    prompt: str
    answer: str

    @property
    def split(self) -> Split:
        """`heldout` for the fixed share of prompts kept away from training, else `train`."""
        return split_of(self.prompt)


def split_of(prompt: str) -> Split:
    """Assign a prompt to a split by a hash of its text; stable over processes and versions."""
    digest = hashlib.sha256(prompt.strip().encode("utf-8")).digest()
    return "heldout" if int.from_bytes(digest[:8], "big") < HELDOUT_SHARE * 2**64 else "train"


def generate(domain: str, seed: int) -> Example:
    """The example number `seed` of a domain; equal arguments give equal text.

    Raises ValueError when the domain is not one of DOMAINS.
    """
    if domain not in _WRITERS:
        raise ValueError(f"domain: {domain!r} is not one of {', '.join(DOMAINS)}")
    prompt, answer = _WRITERS[domain](Random(f"{domain}:{seed}"))
    return Example(domain, prompt, answer)


def examples(domain: str, seed: int = 0, split: Split = "train") -> Iterator[Example]:
    """An endless run of examples of one split without repeated prompts, fixed by the seed."""
    seen: set[int] = set()
    for number in naturals():
        example = generate(domain, (seed << 40) + number)
        key = hash(example.prompt)
        if example.split == split and key not in seen:
            seen.add(key)
            yield example


def prompts(domain: str, count: int, seed: int = 0, split: Split = "heldout") -> list[str]:
    """`count` prompts of one split without duplicates, fixed by the seed."""
    source = examples(domain, seed, split)
    return [next(source).prompt for _ in range(count)]
