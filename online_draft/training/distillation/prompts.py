"""Prompts with `prompt`, `messages`, or Spec-Bench's `turns`: JSON lines, or what `datasets` saved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from online_draft.errors import ConfigError
from online_draft.training.distillation.dataset_dir import dataset_rows, is_dataset_directory

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


def read_prompts(path: Path | Sequence[Path], limit: int | None = None) -> list[Conversation]:
    """Read prompt files or data set directories, one after the other.

    With a `limit`, domains take turns so that each is represented alike. Raises ConfigError naming file and
    line.
    """
    conversations = list(iterate_prompts([path] if isinstance(path, Path) else path))
    return conversations if limit is None else _by_turns(conversations)[:limit]


def iterate_prompts(paths: Sequence[Path]) -> Iterator[Conversation]:
    """All prompts one by one, in order. Errors as `read_prompts`."""
    for path in paths:
        empty = True
        for conversation in _parse(path):
            empty = False
            yield conversation
        if empty:
            raise ConfigError("prompts", f"{path} holds no prompt")


def hash_prompts(paths: Sequence[Path]) -> list[dict[str, str]]:
    """Name and SHA-256 of every prompt file; of a directory, over the names and contents of its files."""
    return [{"name": path.name, "sha256": _hash(path)} for path in paths]


def _hash(path: Path) -> str:
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for part in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{part.relative_to(path)} {_hash(part)}\n".encode())
    return digest.hexdigest()


def _parse(path: Path) -> Iterator[Conversation]:
    expected = "an object with `prompt`, `messages` or `turns`"
    for where, entry in _entries(path):
        try:
            yield _conversation(entry)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ConfigError("prompts", f"{where}: expected {expected} ({error})") from error


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    if path.is_dir():
        if not is_dataset_directory(path):
            raise ConfigError("prompts", f"{path} is not a directory saved by `datasets` (no state.json)")
        yield from dataset_rows(path)
        return
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path}:{number}", _object(line, f"{path}:{number}")
    except (OSError, UnicodeError) as error:
        raise ConfigError("prompts", f"can't read {path}: {error}") from error


def _object(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ConfigError("prompts", f"{where}: expected a line of JSON ({error})") from error


def _conversation(entry: dict[str, Any]) -> Conversation:
    domain = str(entry.get("domain") or entry.get("category") or "default")
    if entry.get("messages") is not None:
        messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in entry["messages"]]
        # Chat data sets end in somebody else's answer: the target gives its own.
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        if not messages:
            raise ValueError("no message to answer")
        return Conversation(tuple(messages), domain=domain)
    turns = entry["turns"] if entry.get("turns") is not None else [entry["prompt"]]
    if turns[0] is None:
        raise ValueError("the prompt is null")
    first = {"role": "user", "content": str(turns[0])}
    return Conversation((first,), tuple(str(turn) for turn in turns[1:]), domain)


def _by_turns(conversations: list[Conversation]) -> list[Conversation]:
    """Reorder so that the domains alternate, keeping the order within each."""
    by_domain: dict[str, list[Conversation]] = {}
    for conversation in conversations:
        by_domain.setdefault(conversation.domain, []).append(conversation)
    longest = max(len(group) for group in by_domain.values())
    return [group[i] for i in range(longest) for group in by_domain.values() if i < len(group)]
