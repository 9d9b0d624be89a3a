"""Which interactions are held out from training, for good and on every node alike."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from online_draft.core import Interaction
from online_draft.errors import ConfigError
from online_draft.store.packing import pack_ints

FIRST_TURN_TOKENS = 256


def is_held_out(interaction: Interaction, fraction: float, opening: Sequence[int] = ()) -> bool:
    """Whether a hash of (tenant, first user turn) falls into `fraction` of all.

    Later turns and repetitions of a conversation share its side, so nothing held out leaks into training.
    `opening` as in `first_turn`.
    """
    if not 0 <= fraction <= 1:
        raise ConfigError("held_out_fraction", f"{fraction} is not in [0, 1]")
    turn = first_turn(interaction.prompt_ids, opening)
    digest = hashlib.blake2b(
        interaction.tenant.encode() + b"\0" + pack_ints(turn), digest_size=8, person=b"od-split"
    )
    return int.from_bytes(digest.digest(), "big") < fraction * 2**64


def first_turn(prompt_ids: tuple[int, ...], opening: Sequence[int] = ()) -> tuple[int, ...]:
    """The prompt's tokens that stand for its first user turn: those before the first `opening`, the tokens
    with which the chat template opens the assistant's turn. Without such, the prompt's first 256."""
    opening = tuple(opening)
    if opening:
        for place in range(len(prompt_ids) - len(opening) + 1):
            if prompt_ids[place : place + len(opening)] == opening:
                return prompt_ids[:place]
    return prompt_ids[:FIRST_TURN_TOKENS]
