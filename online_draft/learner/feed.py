"""From the records stream into the reservoirs, acknowledged only when a checkpoint holds what was read."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from online_draft.buffer.reader import RecordReader
from online_draft.buffer.reservoirs import ReservoirConfig, Reservoirs
from online_draft.store import RedisKeys

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAGE = 64


class RecordFeed:
    """Owns the reader and the reservoirs. Reads block on Redis (StoreError); not thread-safe."""

    def __init__(
        self,
        redis_url: str,
        keys: RedisKeys,
        target: str,
        config: ReservoirConfig,
        assistant_ids: frozenset[int] = frozenset(),
        state: tuple[bytes, bytes] | None = None,
    ) -> None:
        """`state` as `to_bytes` gave it. StoreError when it is damaged."""
        self._reader = RecordReader(redis_url, keys, target, state[0] if state else None)
        if state is None:
            self.reservoirs = Reservoirs(config, assistant_ids)
        else:
            self.reservoirs = Reservoirs.from_bytes(state[1], config, assistant_ids)
        self._unsettled: list[str] = []
        self.seen = {"training": 0, "held_out": 0, "duplicate": 0}

    def take(self) -> int:
        """Take in up to one page of new records without waiting; how many of them are for training."""
        before = self.seen["training"]
        for entry, interaction in self._reader.read(PAGE):
            self.seen[self.reservoirs.add(interaction)] += 1
            self._unsettled.append(entry)
        return self.seen["training"] - before

    @property
    def unsettled(self) -> int:
        """Records taken in since the last checkpoint."""
        return len(self._unsettled)

    def settle(self) -> None:
        """A checkpoint holds all that was taken in: acknowledge it."""
        self._reader.ack(self._unsettled)
        self._unsettled.clear()

    def training_records(self) -> int:
        """Distinct records that can be trained on now."""
        return sum(max(sizes["recent"], sizes["long_term"]) for sizes in self.reservoirs.sizes().values())

    def to_bytes(self) -> tuple[bytes, bytes]:
        """Reader and reservoirs, for a checkpoint."""
        return self._reader.to_bytes(), self.reservoirs.to_bytes()

    def status(self) -> dict[str, Any]:
        """Integers: what was taken in, what the reader refused, what is kept by segment."""
        return {**self.seen, "reader": asdict(self._reader.counts), "segments": self.reservoirs.sizes()}

    def close(self) -> None:
        """Give the connection back. What wasn't settled comes again."""
        self._reader.close()


def assistant_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Special tokens that only ever open the assistant's turn in the chat template; empty without one."""
    if not getattr(tokenizer, "chat_template", None):
        return frozenset()
    turn = [{"role": "user", "content": "a"}]
    closed = tokenizer.apply_chat_template(turn, add_generation_prompt=False, tokenize=False)
    opened = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    before, after = (
        frozenset(tokenizer(str(text), add_special_tokens=False).input_ids) for text in (closed, opened)
    )
    return (after - before) & frozenset(tokenizer.all_special_ids)
