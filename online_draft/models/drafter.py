"""What every drafter is: heads on the target's hidden states, and what one call of them proposes.

Shapes: S sequences, K heads, V vocabulary, W parents, B batch, T positions, A anchors, N rows, F hidden size,
C context features of a row.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from online_draft.errors import ArtifactError
from online_draft.models.adapters.adapter import Site
from online_draft.models.ring import FeatureRing

if TYPE_CHECKING:
    from online_draft.models.adapters.stack import AdapterStack, Changes


class SharedWeights(Protocol):
    """What a drafter borrows from its target, all frozen: embedding and LM head [V, F], and the weight of the
    final norm [F], from which new heads learn the size of hidden states."""

    @property
    def embedding_VF(self) -> Tensor: ...

    @property
    def lm_head_VF(self) -> Tensor: ...

    @property
    def norm(self) -> Tensor: ...

    def logits(self, hidden_NF: Tensor) -> Tensor:
        """LM head on hidden states [..., F] -> [..., V], differentiable."""
        ...


@dataclass(frozen=True, slots=True)
class MarkovTerm:
    """Low-rank dependence on the parent token: adds `output @ input[parent]` to a head's logits.

    Both matrices are [V, rank]. Restores at almost no cost what parallel heads lose: the path taken.
    """

    input_VR: Tensor
    output_VR: Tensor

    def logits(self, parents_X: Tensor) -> Tensor:
        """[*X] -> [*X, V]."""
        return nn.functional.linear(nn.functional.embedding(parents_X, self.input_VR), self.output_VR)


@dataclass(frozen=True, slots=True)
class Draft:
    """All heads' opinions at the newest row of S sequences; turned into trees by `decoding/drafting/tree.py`.

    Head k (0-based) scores the token k + 1 places behind the root, the newest committed token.
    """

    base_logits_SKV: Tensor
    markov: MarkovTerm | None = None
    ids_V: Tensor | None = None
    """Token id of each logit, ascending, where heads don't score all tokens."""

    @property
    def num_heads(self) -> int:
        """K, the deepest level that can be drafted."""
        return self.base_logits_SKV.shape[1]

    def log_probs(self, depth: int, parents_SW: Tensor) -> Tensor:
        """Log-softmax of head `depth` given each parent token, [S, W, V].

        Without a Markov term a head doesn't depend on the parent and the result is [S, 1, V].
        """
        logits = self.base_logits_SKV[:, depth : depth + 1]
        if self.markov is not None:
            logits = logits + self.markov.logits(parents_SW)
        return logits.log_softmax(-1)


class DraftState:
    """What a drafter remembers of each slot between two calls. Opaque; the ring can always replace it.

    `place` says which place of the stack `adapters` each slot drafts with; 0 is none.
    """

    def __init__(self, slots: int) -> None:
        self.epoch = [0] * slots
        self.adapters: AdapterStack | None = None
        self.place = [0] * slots

    def invalidate(self, slot: int) -> None:
        """Forget a slot; the next draft rebuilds it from the ring. Idempotent."""
        self.epoch[slot] = 0

    def assign(self, slot: int, place: int) -> None:
        """Draft with another adapter from now on. What was made with the former one is forgotten."""
        if self.place[slot] != place:
            self.place[slot] = place
            self.invalidate(slot)

    def knows(self, ring: FeatureRing, slot: int) -> bool:
        """Whether a draft for the slot needs nothing made anew."""
        return True

    def changes(self, slots: Sequence[int]) -> Changes | None:
        """What the adapters of these slots change; None when they have none."""
        return None if self.adapters is None else self.adapters.changes([self.place[slot] for slot in slots])


@dataclass(frozen=True)
class DrafterConfig:
    """Sizes common to all drafters; `window` is how many of the last hidden rows a draft may depend on.

    `vocab_size` is the target's; heads score `draft_vocab_size` of its tokens, 0: all.
    """

    hidden_size: int
    vocab_size: int
    num_heads: int = 5
    window: int = 64
    draft_vocab_size: int = 0

    @property
    def scored(self) -> int:
        """How many tokens the heads score."""
        return self.draft_vocab_size or self.vocab_size


class Drafter(nn.Module, abc.ABC):
    """K draft heads on a target's last hidden states.

    A drafter turns hidden rows into context features (`context` for whole sequences, `newest` incrementally
    while serving; equal by test) and features into logits (`heads`). Embedding and LM head are borrowed by
    `bind` and neither trained nor saved.
    """

    kind: ClassVar[str]
    config: DrafterConfig

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.config = config
        self._shared: tuple[SharedWeights] | None = None
        self._head: Tensor | None = None
        self.draft_ids_V: Tensor | None
        """The tokens that heads score, ascending, int64; part of the weights. None: all."""
        size = config.draft_vocab_size
        self.register_buffer("draft_ids_V", torch.arange(size) if size else None)
        self.digest: str | None = None
        """SHA-256 of the file that it was read from, None for one made otherwise."""

    @property
    def num_heads(self) -> int:
        """K."""
        return self.config.num_heads

    @property
    def max_positions(self) -> int | None:
        """Positions that it knows, counted from 0; None: there is no limit."""
        return None

    @property
    def feature_layers(self) -> tuple[int, ...]:
        """Target layers whose output it reads beside the last hidden states, counted from 1; usually none."""
        return ()

    @property
    def shared(self) -> SharedWeights:
        """What `bind` borrowed."""
        if self._shared is None:
            raise RuntimeError("bind(target) must be called before the drafter is used")
        return self._shared[0]

    def bind(self, target: SharedWeights) -> None:
        """Borrow the target's embedding and LM head. Raises ArtifactError when the sizes don't fit."""
        expected = (self.config.vocab_size, self.config.hidden_size)
        if tuple(target.lm_head_VF.shape) != expected:
            raise ArtifactError(
                f"the drafter is for a target of vocabulary x hidden size {expected}, "
                f"this one has {tuple(target.lm_head_VF.shape)}"
            )
        # In a tuple, so that a target which is a module doesn't become part of this one.
        self._shared = (target,)
        self._head = None

    def assign_draft_ids(self, ids_V: Tensor) -> None:
        """Score these tokens, ascending and as many as `draft_vocab_size` says. Weights stay as they are."""
        assert self.draft_ids_V is not None
        self.draft_ids_V.copy_(ids_V)
        self._head = None

    def draft_head_VF(self) -> Tensor | None:
        """The LM head's rows of the tokens that heads score, a copy made once; None where these are all."""
        ids_V, whole_VF = self.draft_ids_V, self.shared.lm_head_VF
        if ids_V is None:
            return None
        if self._head is None or self._head.device != whole_VF.device:
            with torch.inference_mode(False), torch.no_grad():
                self._head = whole_VF[ids_V.to(whole_VF.device)]
        return self._head

    def score(self, hidden_NF: Tensor) -> Tensor:
        """LM head for the tokens that heads score: [..., F] -> [..., V], differentiable."""
        head_VF = self.draft_head_VF()
        return self.shared.logits(hidden_NF) if head_VF is None else nn.functional.linear(hidden_NF, head_VF)

    def clone(self) -> Self:
        """An independent copy of the weights that borrows from the same target."""
        copy = type(self)(self.config)
        reference = next(self.parameters())
        copy.to(reference.device, reference.dtype).load_state_dict(self.state_dict())
        copy._shared = self._shared
        return copy

    @abc.abstractmethod
    def start_from(self, target: SharedWeights) -> None:
        """Bind, and set untrained weights so that every head starts from the target's own next-token view."""

    @abc.abstractmethod
    def new_state(self, slots: int) -> DraftState:
        """Empty serving state for `slots` sequences, on the drafter's device."""

    @abc.abstractmethod
    def newest(self, state: DraftState, ring: FeatureRing, slots: Sequence[int]) -> Tensor:
        """Features [S, C, F] of each slot's newest row; brings the state up to date with the ring first."""

    @abc.abstractmethod
    def context(self, hidden_BTF: Tensor, next_tokens_BT: Tensor, first_BT: Tensor | None = None) -> Tensor:
        """Features [B, T, C, F] of every position; differentiable. `at` picks the positions where heads run.

        Position t sees hidden rows and next tokens at most `window` back and none ahead, so padding on the
        right is harmless. With `feature_layers` hidden rows are wider: `Target.prefill_hidden` makes them.
        `first_BT`, for rows packed with several records: where the record of each position begins; positions
        count from there, and nothing before is seen.
        """

    def at(
        self, features_BTCF: Tensor, row_N: Tensor, position_N: Tensor, first_BT: Tensor | None = None
    ) -> Tensor:
        """What `heads` takes for these positions of `context`'s features: [N, C, F]."""
        return features_BTCF[row_N, position_N]

    @abc.abstractmethod
    def heads(self, features_NCF: Tensor) -> Tensor:
        """Logits [N, K, V] of all heads, without the Markov term; differentiable."""

    @property
    def markov(self) -> MarkovTerm | None:
        """The term that ties a head to its parent token, if this drafter has one."""
        return None

    def adapter_sites(self) -> dict[str, Site]:
        """Linear layers that an adapter can change; none where adapters aren't supported."""
        return {}

    def adapter_weight_OI(self, layer: str) -> Tensor:
        """The weight of one such layer (`name`, or `name.3` of several), a view that may be written to."""
        raise KeyError(layer)

    @torch.inference_mode()
    def draft(self, state: DraftState, ring: FeatureRing, slots: Sequence[int]) -> Draft:
        """Heads at the newest row of each slot, in the order given. Mutates only `state`.

        Slots are distinct and hold at least one row each. Stale ones (reset, swapped, long not drafted) are
        rebuilt.
        """
        return Draft(self.heads(self.newest(state, ring, slots)), self.markov, self.draft_ids_V)

    @torch.inference_mode()
    def draft_from(self, features_SCF: Tensor) -> Draft:
        """The draft that serving would have made where `context` gave these features."""
        return Draft(self.heads(features_SCF), self.markov, self.draft_ids_V)

    def head_logits(
        self,
        hidden_BTF: Tensor,
        next_tokens_BT: Tensor,
        anchors_BA: Tensor,
        parents_BAK: Tensor,
        first_BT: Tensor | None = None,
    ) -> Tensor:
        """Training logits [B, A, K, V] at anchor positions only; `parents_BAK` precede the heads' targets.

        At anchor t the token t + 1 is known; head k (0-based) predicts t + 2 + k, whose parent is t + 1 + k.
        `first_BT` as in `context`.
        """
        features_BTCF = self.context(hidden_BTF, next_tokens_BT, first_BT)
        batch, anchors = anchors_BA.shape
        row_N = torch.arange(batch, device=anchors_BA.device).repeat_interleave(anchors)
        logits_NKV = self.heads(self.at(features_BTCF, row_N, anchors_BA.flatten(), first_BT))
        logits_BAKV = logits_NKV.view(batch, anchors, *logits_NKV.shape[1:])
        return logits_BAKV if self.markov is None else logits_BAKV + self.markov.logits(parents_BAK)
