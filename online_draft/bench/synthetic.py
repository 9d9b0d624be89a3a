"""A drafter whose hits are drawn: separates what the engine costs from what draft heads know.

Shapes: S sequences, K heads, V vocabulary, P positions of an answer.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from online_draft.core import GenerationRequest
from online_draft.errors import ConfigError
from online_draft.models.drafter import Draft, Drafter, DrafterConfig, DraftState, SharedWeights
from online_draft.models.ring import FeatureRing

PREFIX = "synthetic:"
"""`synthetic:3.3` names a drafter with a mean accepted length of 3.3."""

MAX_TAU = 16.0
_NEVER = -1e4
"""Logit of a token that is surely wrong; its probability is 0, but no infinity enters the arithmetic."""

RequestIn = Callable[[int], GenerationRequest | None]


def parse_tau(name: str) -> float:
    """The τ in `synthetic:τ`. Raises ConfigError."""
    try:
        tau = float(name.removeprefix(PREFIX))
    except ValueError:
        tau = math.nan
    if not 1 < tau <= MAX_TAU:
        raise ConfigError("synthetic", f"τ must be above 1 and at most {MAX_TAU:g}, got {name!r}")
    return tau


def heads_for(tau: float) -> int:
    """K: deep enough that hits at a plausible rate reach τ."""
    return max(5, math.ceil(2 * (tau - 1)))


def hit_rate(tau: float, heads: int) -> float:
    """p with 1 + p + p^2 + ... + p^K = τ: how often a head is right where the heads before it were."""
    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        low, high = (p, high) if sum(p**depth for depth in range(heads + 1)) < tau else (low, p)
    return (low + high) / 2


class SyntheticDrafter(Drafter):
    """Proposes the next tokens of answers that `learn` was told, each right with a probability of `rate`.

    A head's distribution is honest: `rate` on the one token that it proposes, the rest thinly on tokens
    that are all wrong. Whether a head at a position hits is drawn once per answer, so every repeat sees the
    same hits. Behind the end of an answer nothing is right.
    """

    kind = "synthetic"

    def __init__(self, tau: float, hidden_size: int, vocab_size: int, device: torch.device, seed: int = 0):
        heads = heads_for(tau)
        super().__init__(DrafterConfig(hidden_size, vocab_size, num_heads=heads, window=1))
        self.tau = tau
        self.rate = hit_rate(tau, heads)
        self._seed = seed
        self._device = device
        self._answers: dict[str, tuple[int, Tensor, Tensor]] = {}
        self._request_in: RequestIn = lambda slot: None
        rest = math.log((1 - self.rate) / max(1, vocab_size - 2))
        self._base_KV = torch.full((heads, vocab_size), rest, device=device)
        self._proposed = math.log(self.rate)
        self._nothing_K1 = torch.zeros(heads, 1, dtype=torch.int64, device=device)

    def attach(self, request_in: RequestIn) -> None:
        """How to learn whose slot a slot is: `Engine.request_in`."""
        self._request_in = request_in

    def learn(self, answers: Iterable[tuple[GenerationRequest, Sequence[int]]]) -> None:
        """Take the answers of the requests to come; those of earlier ones are forgotten."""
        self._answers = {
            request.request_id: (len(request.prompt_ids), *self._plan(tokens)) for request, tokens in answers
        }

    def draft(self, state: DraftState, ring: FeatureRing, slots: Sequence[int]) -> Draft:
        """Logits at each slot's newest row."""
        true, proposed = zip(*(self._at(slot, ring.end[slot]) for slot in slots), strict=True)
        logits_SKV = self._base_KV.expand(len(slots), -1, -1).clone()
        logits_SKV.scatter_(2, torch.stack(true), _NEVER)
        logits_SKV.scatter_(2, torch.stack(proposed), self._proposed)
        return Draft(logits_SKV)

    def _at(self, slot: int, root: int) -> tuple[Tensor, Tensor]:
        """True and proposed tokens [K, 1] behind the root, whose absolute position is given."""
        request = self._request_in(slot)
        if request is None:
            # A step that is timed runs for nobody.
            return self._nothing_K1, self._nothing_K1
        if request.request_id not in self._answers:
            raise RuntimeError(f"the synthetic drafter knows no answer of what runs in slot {slot}")
        prompt, true_PK1, proposed_PK1 = self._answers[request.request_id]
        place = max(0, min(root - prompt, true_PK1.shape[0] - 1))
        return true_PK1[place], proposed_PK1[place]

    def _plan(self, answer: Sequence[int]) -> tuple[Tensor, Tensor]:
        """True and proposed tokens [P, K, 1] behind each token of an answer."""
        heads, vocab = self.config.num_heads, self.config.vocab_size
        known_P = torch.tensor([*answer, *[-1] * heads], dtype=torch.int64)
        true_PK = known_P[1:].unfold(0, heads, 1)
        generator = torch.Generator().manual_seed(self._seed ^ zlib.crc32(known_P.numpy().tobytes()))
        hit_PK = torch.rand(true_PK.shape, generator=generator) < self.rate
        wrong_PK = (true_PK + torch.randint(1, vocab, true_PK.shape, generator=generator)) % vocab
        proposed_PK = torch.where(hit_PK & (true_PK >= 0), true_PK, wrong_PK)
        true_PK1 = torch.where(true_PK >= 0, true_PK, wrong_PK).unsqueeze(2)
        return true_PK1.to(self._device), proposed_PK.unsqueeze(2).to(self._device)

    def new_state(self, slots: int) -> DraftState:
        """There is nothing to remember."""
        return DraftState(slots)

    def start_from(self, target: SharedWeights) -> None:
        raise TypeError("a synthetic drafter has no weights")

    def newest(self, state: DraftState, ring: FeatureRing, slots: Sequence[int]) -> Tensor:
        raise TypeError("a synthetic drafter has no features")

    def context(self, hidden_BTF: Tensor, next_tokens_BT: Tensor, first_BT: Tensor | None = None) -> Tensor:
        raise TypeError("a synthetic drafter has no features")

    def heads(self, features_NCF: Tensor) -> Tensor:
        raise TypeError("a synthetic drafter has no features")
