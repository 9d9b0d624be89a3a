"""Prompt files: JSON lines with `prompt`, `messages`, or Spec-Bench's `turns`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from online_draft.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages to answer now, and the user turns that follow the answer."""

    messages: tuple[dict[str, str], ...]
    later_turns: tuple[str, ...] = ()
    domain: str = "default"

    def after(self, answer: str) -> Conversation | None:
        """The next exchange of a multi-turn prompt, None at its end."""
        if not self.later_turns:
            return None
        following = {"role": "user", "content": self.later_turns[0]}
        messages = (*self.messages, {"role": "assistant", "content": answer}, following)
        return Conversation(messages, self.later_turns[1:], self.domain)

    def token_ids(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """The messages through the chat template; without a template their text is continued as it stands."""
        ids: Any
        if tokenizer.chat_template:
            ids = tokenizer.apply_chat_template(
                list(self.messages), add_generation_prompt=True, tokenize=True, return_dict=False
            )
        else:
            ids = tokenizer.encode("\n".join(message["content"] for message in self.messages))
        return tuple(int(token) for token in ids)


def read_prompts(path: Path, limit: int | None = None) -> list[Conversation]:
    """Read a prompt file. With a `limit`, domains take turns so that each is represented alike.

    Raises ConfigError naming file and line.
    """
    try:
        conversations = list(_parse(path))
    except OSError as error:
        raise ConfigError("prompts", f"can't read {path}: {error.strerror}") from error
    if not conversations:
        raise ConfigError("prompts", f"{path} holds no prompt")
    return conversations if limit is None else _by_turns(conversations)[:limit]


def _parse(path: Path) -> Iterator[Conversation]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield _conversation(json.loads(line))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                expected = "a JSON object with `prompt`, `messages` or `turns`"
                raise ConfigError("prompts", f"{path}:{number}: expected {expected} ({error})") from error


def _conversation(entry: dict[str, Any]) -> Conversation:
    domain = str(entry.get("domain") or entry.get("category") or "default")
    if "messages" in entry:
        messages = tuple({"role": str(m["role"]), "content": str(m["content"])} for m in entry["messages"])
        return Conversation(messages, domain=domain)
    turns = [str(turn) for turn in entry["turns"]] if "turns" in entry else [str(entry["prompt"])]
    return Conversation(({"role": "user", "content": turns[0]},), tuple(turns[1:]), domain)


def _by_turns(conversations: list[Conversation]) -> list[Conversation]:
    """Reorder so that the domains alternate, keeping the order within each."""
    by_domain: dict[str, list[Conversation]] = {}
    for conversation in conversations:
        by_domain.setdefault(conversation.domain, []).append(conversation)
    longest = max(len(group) for group in by_domain.values())
    return [group[i] for i in range(longest) for group in by_domain.values() if i < len(group)]
