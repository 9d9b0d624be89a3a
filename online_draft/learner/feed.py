"""From the records stream into the reservoirs, acknowledged only when a checkpoint holds what was read."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from online_draft.buffer.erasures import ErasureLog
from online_draft.buffer.reader import RecordReader
from online_draft.buffer.reservoir_config import ReservoirConfig
from online_draft.buffer.reservoirs import PLACES, Reservoirs
from online_draft.core import Interaction
from online_draft.errors import StoreError
from online_draft.store import ArtifactStore, RedisKeys

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

PAGE = 64
FRESH = 256
LOOK_EVERY_S = 1.0
"""How often requests to erase are looked for, and the books brought up to date."""


class RecordFeed:
    """Owns the reader and the reservoirs. Reads block on Redis (StoreError); not thread-safe."""

    def __init__(
        self,
        redis_url: str,
        keys: RedisKeys,
        target: str,
        config: ReservoirConfig,
        opening: tuple[int, ...] = (),
        state: tuple[bytes, bytes] | None = None,
        store: ArtifactStore | None = None,
        erased: int = 0,
    ) -> None:
        """`state` as `to_bytes` gave it, in a checkpoint in which requests to erase up to `erased` were
        honoured. What can't be read of it is left behind."""
        reader, reservoirs = state or (None, None)
        self.reservoirs = _restored(reservoirs, config, opening)
        try:
            self._reader = RecordReader(redis_url, keys, target, reader)
        except StoreError as error:
            logger.error("the reader starts anew: %s", error)
            self._reader = RecordReader(redis_url, keys, target)
        self._erasures = ErasureLog(store) if store is not None else None
        self.erased = erased
        """Requests to erase are honoured here up to this number."""
        self._known_erasures = 0
        self._erased_records = 0
        self._erasure_trouble = ""
        self._fresh: deque[Interaction] = deque(maxlen=FRESH)
        self._unsettled: list[str] = []
        self._held = 0
        self._lag = self._lost = 0
        self._look_at = float("-inf")
        self._sizes = self.reservoirs.sizes()
        self.seen: dict[str, int] = dict.fromkeys(PLACES, 0)

    def take(self) -> int:
        """Take in up to one page of new records without waiting; how many of them are for training."""
        look = time.monotonic() >= self._look_at
        if look:
            self._look_at = time.monotonic() + LOOK_EVERY_S
            self._honour()
        before = dict(self.seen)
        for entry, interaction in self._reader.read(PAGE):
            place = self.reservoirs.add(interaction)
            self.seen[place] += 1
            if place == "held_out":
                self._fresh.append(interaction)
            self._unsettled.append(entry)
        self._unsettled += self._reader.take_refused()
        if self.seen != before:
            self._sizes = self.reservoirs.sizes()
        if look:
            self._lag = self._reader.lag()
            if not self._lag:
                self._lost = self._reader.lost_in_crash()
        return self.seen["training"] - before["training"]

    def take_held_out(self) -> list[Interaction]:
        """Held-out records that were taken in since the last call, the latest of them."""
        fresh = list(self._fresh)
        self._fresh.clear()
        return fresh

    @property
    def unsettled(self) -> int:
        """Entries read since the last checkpoint."""
        return len(self._unsettled)

    def settle(self) -> None:
        """A checkpoint holds what the last `to_bytes` gave: acknowledge what was read until then."""
        self._reader.ack(self._unsettled[: self._held])
        del self._unsettled[: self._held]
        self._held = 0

    def training_records(self) -> int:
        """Distinct records that can be trained on now."""
        return sum(max(sizes["recent"], sizes["long_term"]) for sizes in self._sizes.values())

    def to_bytes(self) -> tuple[bytes, bytes]:
        """Reader and reservoirs, for a checkpoint."""
        self._held = len(self._unsettled)
        return self._reader.to_bytes(), self.reservoirs.to_bytes()

    def status(self) -> dict[str, Any]:
        """Integers: what was taken in, what the reader refused, what is kept by segment. As of a second ago:
        `lag`, entries not read yet, and `lost_in_crash`, records that will never come. From any thread."""
        return {
            **self.seen,
            "reader": asdict(self._reader.counts),
            "lag": self._lag,
            "lost_in_crash": self._lost,
            "segments": self._sizes,
            "erased_records": self._erased_records,
            "erasure_trouble": self._erasure_trouble,
        }

    def close(self) -> None:
        """Give the connection back. What wasn't settled comes again."""
        self._reader.close()

    def _honour(self) -> None:
        """Forget the tenants whose erasure was asked for. Never raises: it is looked for again."""
        if self._erasures is None:
            return
        try:
            requests = self._erasures.read(after=self._known_erasures)
        except StoreError as error:
            if str(error) != self._erasure_trouble:
                logger.error("requests to erase can't be read: %s", error)
            self._erasure_trouble = str(error)
            return
        self._erasure_trouble = ""
        for request in requests:
            until = max(request.until_ms, self._reader.ledger.erased.get(request.tenant, 0))
            self._reader.ledger.erased = {**self._reader.ledger.erased, request.tenant: until}
            if request.number > self.erased:
                gone = self.reservoirs.erase(request.tenant)
                kept = [record for record in self._fresh if record.tenant != request.tenant]
                self._fresh = deque(kept, FRESH)
                self._erased_records += gone
                self.erased = request.number
                self._sizes = self.reservoirs.sizes()
                logger.info("request %d to erase a tenant: %d records forgotten", request.number, gone)
            self._known_erasures = request.number


def _restored(state: bytes | None, config: ReservoirConfig, opening: tuple[int, ...]) -> Reservoirs:
    if state is not None:
        try:
            return Reservoirs.from_bytes(state, config, opening)
        except StoreError as error:
            logger.error("the reservoirs start empty: %s", error)
    return Reservoirs(config, opening)


def assistant_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens with which the chat template opens the assistant's turn; empty without any.

    What `add_generation_prompt` adds, or, where that is nothing, what stands between a user's words and the
    answer. White space around it is left out: it may be one token with its neighbours.
    """
    if not getattr(tokenizer, "chat_template", None):
        return ()
    question, answer = "qqqq", "aaaa"
    turn = [{"role": "user", "content": question}]
    closed, opened, answered = (
        str(tokenizer.apply_chat_template(messages, add_generation_prompt=opening, tokenize=False))
        for messages, opening in (
            (turn, False),
            (turn, True),
            ([*turn, {"role": "assistant", "content": answer}], False),
        )
    )
    text = opened.removeprefix(closed)
    if opened == closed:
        _, asked, rest = answered.partition(question)
        text, found, _ = rest.partition(answer)
        if not (asked and found):
            return ()
    ids = tokenizer(text.strip(), add_special_tokens=False).input_ids
    return tuple(int(token) for token in ids)
