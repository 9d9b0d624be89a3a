"""The drafters that are resident at once, and which of them drafts for a sequence."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from online_draft.core import GenerationRequest
from online_draft.decoding.policy.calibration import Calibration
from online_draft.decoding.sequence import Sequence
from online_draft.errors import ConfigError
from online_draft.models.drafter import Drafter, DraftState


@dataclass(frozen=True, eq=False, slots=True)
class Arm:
    """A version that drafts: its weights, what it remembers of each slot, what its confidence is worth.

    Without a drafter (then there is no state either) its sequences draft from the n-gram memory at most.
    """

    version: str | None
    drafter: Drafter | None
    state: DraftState | None
    calibration: Calibration

    @property
    def heads(self) -> int:
        """K, 0 without a drafter."""
        return 0 if self.drafter is None else self.drafter.config.num_heads


@dataclass(frozen=True, slots=True)
class Arms:
    """The champion and perhaps a second drafter (a candidate, or the champion's forerunner) beside it.

    The second one's are `share` of all sequences, by a hash of `salt` and session (request id where there is
    none): on every replica the same ones, and a conversation stays with its arm. A `leaving` one gets no new
    sequences and finishes those that it has.
    """

    champion: Arm
    second: Arm | None = None
    share: float = 0.0
    salt: str | int = ""
    leaving: Arm | None = None

    @classmethod
    def none(cls) -> Arms:
        """No drafter at all."""
        return cls(Arm(None, None, None, Calibration(1)))

    @property
    def present(self) -> tuple[Arm, ...]:
        """All of them, the champion first."""
        return tuple(arm for arm in (self.champion, self.second, self.leaving) if arm is not None)

    @property
    def alone(self) -> bool:
        """Whether the champion drafts for everybody."""
        return self.second is None and self.leaving is None

    @property
    def drafters(self) -> list[tuple[Drafter, DraftState]]:
        """What runners draft with."""
        return [(a.drafter, a.state) for a in self.present if a.drafter is not None and a.state is not None]

    def pick(self, request: GenerationRequest) -> Arm:
        """The arm of a new sequence."""
        second = self.second
        return self.champion if second is None or place(self.salt, request) >= self.share else second

    def successor(self, arm: Arm) -> Arm:
        """Who drafts for the sequences of an arm of former arms: the same drafter, else the champion."""
        return next((own for own in self.present if own.drafter is arm.drafter), self.champion)

    def followed_by(
        self,
        champion: Drafter | None,
        version: str | None,
        second: Drafter | None,
        second_version: str | None,
        share: float,
        salt: str | int,
        new_state: Callable[[Drafter], DraftState],
    ) -> Arms:
        """Other arms. A drafter that is among these keeps its state and calibration; a new one's calibration
        starts from what this champion's learnt, where it is of the same kind. Changes nothing here."""
        if not 0 <= share <= 1:
            raise ConfigError("share", f"must be from 0 to 1, is {share}")
        if second is None:
            return Arms(self._arm(champion, version, new_state))
        if champion is None:
            raise ConfigError("champion", "a second drafter needs a champion beside it")
        if second is champion or second_version == version:
            raise ConfigError("second", f"must be another drafter and version than the champion's {version}")
        ours, theirs = self._arm(champion, version, new_state), self._arm(second, second_version, new_state)
        return Arms(ours, theirs, share, salt)

    def letting_finish(self, former: Arms, sequences: Iterable[Sequence]) -> Arms:
        """The same, but one of the former arms may finish its sequences: that with most of these. Without a
        champion that drafts none may."""
        drafters = [None, *(arm.drafter for arm in self.present)]
        running = Counter(s.arm for s in sequences if s.arm is not None and s.arm.drafter not in drafters)
        gone = [arm for arm in former.present if running[arm]] if self.champion.drafter is not None else []
        return replace(self, leaving=max(gone, key=running.__getitem__, default=None))

    def check_integrity(self, sequences: Iterable[Sequence]) -> None:
        """Assert that every sequence's arm is one of these, and that only the champion's have adapters."""
        for arm in self.present[1:]:
            assert arm.state is None or not any(arm.state.place), "another than the champion has adapters"
        for sequence in sequences:
            if sequence.slot >= 0:
                assert (sequence.arm is not None) == sequence.request.speculate, "who drafts isn't said"
            assert sequence.arm is None or sequence.arm in self.present, "an arm that is gone drafts"

    def _arm(
        self, drafter: Drafter | None, version: str | None, new_state: Callable[[Drafter], DraftState]
    ) -> Arm:
        if drafter is None:
            return Arm(version, None, None, Calibration(1))
        for known in self.present:
            if known.drafter is drafter:
                same = known.version == version
                return known if same else Arm(version, drafter, known.state, known.calibration)
        parent, heads = self.champion, drafter.config.num_heads
        alike = parent.drafter is not None and parent.drafter.kind == drafter.kind and parent.heads == heads
        calibration = parent.calibration.heir() if alike else Calibration(heads)
        return Arm(version, drafter, new_state(drafter), calibration)


def place(salt: str | int, request: GenerationRequest) -> float:
    """Where a hash puts a request, or the session that it belongs to, from 0 to 1."""
    session = request.session
    names = (request.request_id,) if session is None else (request.tenant, session)
    digest = hashlib.blake2b("\0".join((str(salt), *names)).encode(), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48
