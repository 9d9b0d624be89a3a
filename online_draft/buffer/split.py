"""Which interactions are held out from training, for good and on every node alike."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from online_draft.core import Interaction
from online_draft.errors import ConfigError
from online_draft.store.packing import pack_ints

FIRST_TURN_TOKENS = 256


def is_held_out(interaction: Interaction, fraction: float, assistant_ids: Collection[int] = ()) -> bool:
    """Whether a hash of (tenant, first user turn) falls into `fraction` of all.

    Later turns and repetitions of a conversation share its side, so nothing held out leaks into training.
    The first user turn is the prompt up to the first token in `assistant_ids` (what the chat template
    opens the assistant's turn with); without one, the prompt's first 256 tokens.
    """
    if not 0 <= fraction <= 1:
        raise ConfigError("held_out_fraction", f"{fraction} is not in [0, 1]")
    turn = first_turn(interaction.prompt_ids, assistant_ids)
    digest = hashlib.blake2b(
        interaction.tenant.encode() + b"\0" + pack_ints(turn), digest_size=8, person=b"od-split"
    )
    return int.from_bytes(digest.digest(), "big") < fraction * 2**64


def first_turn(prompt_ids: tuple[int, ...], assistant_ids: Collection[int] = ()) -> tuple[int, ...]:
    """The prompt's tokens that stand for its first user turn; see `is_held_out`."""
    for index, token in enumerate(prompt_ids):
        if token in assistant_ids:
            return prompt_ids[:index]
    return prompt_ids[:FIRST_TURN_TOKENS]
