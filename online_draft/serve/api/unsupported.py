"""Parameters of OpenAI and vLLM whose effect we can't deliver: refused by name, with what to do instead."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from online_draft.errors import RequestError

_OFF: tuple[Any, ...] = (None, False, [], {}, 0, "none", "auto")
_GRAMMARS = (
    (None,),
    "constrained output is not supported; ask for the form in a message and check the answer",
)
_TOOLS = (_OFF, "tool calls are not supported; describe the tool in a message and parse the answer")
_ONLY_TEXT = "this endpoint reads and writes text only; leave it out"

_UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "tools": _TOOLS,
    "tool_choice": _TOOLS,
    "functions": _TOOLS,
    "function_call": _TOOLS,
    "response_format": ((None, {"type": "text"}), "only {'type': 'text'} is supported; " + _GRAMMARS[1]),
    "guided_json": _GRAMMARS,
    "guided_regex": _GRAMMARS,
    "guided_choice": _GRAMMARS,
    "guided_grammar": _GRAMMARS,
    "structured_outputs": _GRAMMARS,
    "audio": ((None,), _ONLY_TEXT),
    "modalities": ((None, ["text"]), "only ['text'] is supported; " + _ONLY_TEXT),
    "documents": ((None, []), "put documents into a message"),
    "web_search_options": ((None,), "web search is not supported; put what is known into a message"),
    "prediction": ((None,), "predicted outputs are not supported; drafts are made by the server itself"),
    "suffix": ((None, ""), "filling in is not supported; put the context into the prompt"),
    "best_of": ((None, 1), "not supported; use n with logprobs and choose yourself"),
    "use_beam_search": ((None, False), "beam search is not supported; use n and choose yourself"),
    "logits_processors": ((None, []), "not supported; use logit_bias"),
    "allowed_token_ids": ((None, []), "not supported; use logit_bias, or check the answer"),
    "bad_words": ((None, []), "not supported; use logit_bias, or check the answer"),
    "thinking_token_budget": ((None,), "not supported; use max_tokens"),
    "include_stop_str_in_output": (
        (None, False),
        "not supported; append the stop string (stop_reason has it)",
    ),
    "skip_special_tokens": ((None, True), "not supported; ask for return_token_ids and use /detokenize"),
    "truncate_prompt_tokens": (
        (None,),
        "not supported; cut the prompt yourself, /tokenize counts its tokens",
    ),
    "chat_template": ((None,), "the model's own template is used; render yourself and use /v1/completions"),
    "cache_salt": ((None,), "not supported; KV blocks are shared within one API key's tenant only"),
    "prompt_embeds": ((None,), "not supported; send text or token ids"),
}

_WITHOUT_EFFECT = {
    *("prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier"),
    *("length_penalty", "early_stopping", "spaces_between_special_tokens"),
}
"""Nobody has to be told that these are ignored: they concern accounts, caches, and features refused above."""


def refuse_unsupported(given: Mapping[str, Any]) -> None:
    """Raise `RequestError` naming the first parameter whose effect we can't deliver."""
    for name, value in given.items():
        if name in _UNSUPPORTED:
            harmless, reason = _UNSUPPORTED[name]
            if not any(_same(value, one) for one in harmless):
                raise RequestError(f"{name}: {reason}", param=name, code="unsupported_parameter")


def ignored(names: Iterable[str]) -> list[str]:
    """Those that nobody here knows, fit for a header."""
    unknown = (name for name in names if name not in _UNSUPPORTED and name not in _WITHOUT_EFFECT)
    return sorted({re.sub(r"[^A-Za-z0-9_.-]", "?", name)[:40] or "?" for name in unknown})[:20]


def _same(value: Any, harmless: Any) -> bool:
    return bool(value == harmless) and isinstance(value, bool) == isinstance(harmless, bool)
