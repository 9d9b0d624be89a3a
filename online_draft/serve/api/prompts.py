"""From messages and texts to token ids, without torch: `tokenizers` and a sandboxed chat template.

Special tokens in user text stay text. A completion's text is encoded with special tokens switched off.
A conversation is rendered with a mark inside every special token that a message spells out; when no
mark was needed (nearly always) the rendered text is encoded as a whole, exactly as transformers does.
Otherwise it is cut at the special tokens the template itself wrote, and the pieces between them are
encoded as text, marks removed.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from online_draft.errors import RequestError, TargetError
from online_draft.models.embedded import TARGET_DIR
from online_draft.serve.api.vocabulary import Vocabulary

_OWN_VARIABLES = frozenset(
    ("messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token", "strftime_now")
)


def tokenizer_directory(target: str) -> Path:
    """Where a target's tokenizer lies: the embedded one, a local directory, or a Hub name (downloaded once).

    Raises TargetError when it can't be had. Reads no weights.
    """
    if target == "embedded":
        return TARGET_DIR
    path = Path(target).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or target.startswith((".", "~")) or target.count("/") > 1:
        raise TargetError(f"--target {target}: no such directory")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(target, allow_patterns=["*.json", "*.jinja"]))
    except (OSError, ValueError) as error:
        raise TargetError(f"--target {target}: its tokenizer can't be had: {error}") from error


class PromptEncoder:
    """Encodes prompts for one target. Thread-safe: nothing changes after construction."""

    def __init__(self, target_dir: Path, max_context: int | None = None) -> None:
        """Read tokenizer.json, tokenizer_config.json and config.json of a Hugging Face directory.

        `max_context` lowers the model's own context length. Raises TargetError when files are missing.
        """
        tokenizer_path = target_dir / "tokenizer.json"
        if not tokenizer_path.is_file():
            raise TargetError(f"{target_dir} has no tokenizer.json; only fast tokenizers are supported")
        self._whole = Tokenizer.from_file(str(tokenizer_path))
        self._text = Tokenizer.from_file(str(tokenizer_path))
        for tokenizer in (self._whole, self._text):
            tokenizer.no_truncation()
            tokenizer.no_padding()
        self._text.encode_special_tokens = True
        config = _read_json(target_dir / "config.json")
        self._names = _read_json(target_dir / "tokenizer_config.json")
        added = self._whole.get_added_tokens_decoder()
        self._special_ids = {token.content: index for index, token in added.items() if token.special}
        longest_first = sorted(self._special_ids, key=len, reverse=True)
        self._specials = (
            re.compile("|".join(re.escape(text) for text in longest_first)) if longest_first else None
        )
        self.vocabulary = Vocabulary(self._whole, frozenset(self._special_ids.values()))
        self._longest_token = max(len(token) for token in self._whole.get_vocab())
        model_context = int(config.get("max_position_embeddings", 2048))
        self.max_context = min(max_context, model_context) if max_context else model_context
        self.vocab_size = int(config.get("vocab_size", self._whole.get_vocab_size()))
        self._template = _compile_template(target_dir, self._names)

    def text(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a completion prompt, with what the tokenizer puts around every text (BOS)."""
        ids = self.tokenize(text, add_special_tokens)
        if not ids:
            raise RequestError("prompt: must not be empty", param="prompt", code="invalid_value")
        return ids

    def tokenize(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of any text, an empty one included."""
        self._refuse_hopeless(len(text), "prompt")
        return list(self._text.encode(text, add_special_tokens=add_special_tokens).ids)

    def ids(self, ids: Sequence[int]) -> list[int]:
        """Token ids as the client sent them, checked against the context and the vocabulary."""
        self.check_room(len(ids), None, "prompt")
        self.check_ids(ids, "prompt")
        return list(ids)

    def check_ids(self, ids: Sequence[int], param: str) -> None:
        """Raise RequestError for a token id that isn't in the vocabulary."""
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise RequestError(
                    f"{param}: token id {token} is not in 0..{self.vocab_size - 1}", param, "invalid_value"
                )

    def chat(
        self,
        messages: Sequence[tuple[str, str]],
        opens_answer: bool = True,
        continues: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of a conversation of (role, text), ready for the assistant's turn (`opens_answer`).

        With `continues` the last message is left open instead. `variables` are handed to the template.
        """
        self._refuse_hopeless(sum(len(text) for _, text in messages), "messages")
        mark, end_mark = (f"\ue000{secrets.token_hex(8)}\ue001" for _ in range(2))
        guarded = [{"role": role, "content": self._guard(text, mark)} for role, text in messages]
        if continues:
            guarded[-1]["content"] += end_mark
        given = {name: self._guard_value(name, value, mark) for name, value in (variables or {}).items()}
        rendered = self._render(guarded, opens_answer, given)
        if continues:
            rendered, found, _ = rendered.rpartition(end_mark)
            if not found:
                raise RequestError(
                    "continue_final_message: the model's chat template leaves the last message out",
                    "continue_final_message",
                    "invalid_value",
                )
        return self._encode(rendered, mark)

    def check_room(self, prompt_tokens: int, max_tokens: int | None, param: str) -> int:
        """The tokens that may be generated: `max_tokens`, or what the context leaves when it is None.

        Raises RequestError `context_length_exceeded` when prompt and answer don't fit together.
        """
        room = self.max_context - prompt_tokens
        if room < 1 or (max_tokens is not None and max_tokens > room):
            asked = f"{prompt_tokens} in the {param}" + (
                f", {max_tokens} in the completion" if max_tokens else ""
            )
            raise RequestError(
                f"{param}: this model's context is {self.max_context} tokens; you asked for {asked}",
                param=param,
                code="context_length_exceeded",
            )
        return room if max_tokens is None else max_tokens

    def _encode(self, rendered: str, mark: str) -> list[int]:
        """The rendered conversation, special tokens where the template wrote them and nowhere else."""
        if mark not in rendered:
            return list(self._whole.encode(rendered, add_special_tokens=False).ids)
        assert self._specials is not None
        ids: list[int] = []
        end = 0
        for found in self._specials.finditer(rendered):
            ids += self._plain(rendered[end : found.start()].replace(mark, ""))
            ids.append(self._special_ids[found.group()])
            end = found.end()
        return ids + self._plain(rendered[end:].replace(mark, ""))

    def _plain(self, text: str) -> list[int]:
        return list(self._text.encode(text, add_special_tokens=False).ids) if text else []

    def _guard(self, text: str, mark: str) -> str:
        if self._specials is None:
            return text
        return self._specials.sub(lambda found: found.group()[0] + mark + found.group()[1:], text)

    def _guard_value(self, name: str, value: Any, mark: str) -> Any:
        if name in _OWN_VARIABLES:
            raise RequestError(
                f"chat_template_kwargs: {name} is not for clients to set",
                "chat_template_kwargs",
                "invalid_value",
            )
        return self._guard(value, mark) if isinstance(value, str) else value

    def _refuse_hopeless(self, characters: int, param: str) -> None:
        """Refuse what can't fit before spending time on it: no token covers more than the longest one."""
        if characters > self.max_context * self._longest_token:
            raise RequestError(
                f"{param}: this model's context is {self.max_context} tokens; {characters} characters "
                "can't fit into it",
                param=param,
                code="context_length_exceeded",
            )

    def _render(
        self, messages: list[dict[str, str]], opens_answer: bool, variables: Mapping[str, Any]
    ) -> str:
        if self._template is None:
            raise RequestError(
                "messages: this model has no chat template; use /v1/completions", "messages", "invalid_value"
            )
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=opens_answer,
                bos_token=_token_text(self._names.get("bos_token")),
                eos_token=_token_text(self._names.get("eos_token")),
                **variables,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise RequestError(
                f"messages: the model's chat template refuses them: {error}", "messages", "invalid_value"
            ) from error


def _compile_template(target_dir: Path, names: dict[str, Any]) -> jinja2.Template | None:
    file = target_dir / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.is_file() else names.get("chat_template")
    if isinstance(source, list):
        source = next((entry["template"] for entry in source if entry["name"] == "default"), None)
    if not isinstance(source, str):
        return None
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_template_error
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_template_error(message: str) -> None:
    raise jinja2.TemplateError(message)


def _token_text(token: Any) -> str:
    """A special token as tokenizer_config.json writes it: a string or an object with `content`."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
