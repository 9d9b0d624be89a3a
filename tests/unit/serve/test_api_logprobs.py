"""Log-probabilities, echo and prompt log-probabilities over a real engine, in OpenAI's and vLLM's shapes."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import pytest

from online_draft.serve.api.prompts import PromptEncoder
from online_draft.serve.api.replies import ChatChunk, ChatCompletion, Completion, CompletionChunk

CHAT: dict[str, Any] = {
    "model": "tiny", "messages": [{"role": "user", "content": "hello"}], "seed": 3, "max_tokens": 12,
    "return_token_ids": True,
}  # fmt: skip
TEXT: dict[str, Any] = {
    "model": "tiny", "prompt": "hello there", "seed": 3, "max_tokens": 12, "return_token_ids": True,
}  # fmt: skip


async def ask(live: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = await live.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    (ChatCompletion if "chat" in path else Completion).model_validate(answer)
    return answer


async def chunks(live: httpx.AsyncClient, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    response = await live.post(path, json={**body, "stream": True})
    assert response.status_code == 200, response.text
    *events, done = (line.removeprefix("data: ") for line in response.text.split("\n\n") if line)
    assert done == "[DONE]"
    parsed = [json.loads(line) for line in events]
    for chunk in parsed:
        (ChatChunk if "chat" in path else CompletionChunk).model_validate(chunk)
    return parsed


async def test_chat_logprobs_have_one_entry_per_token(live: httpx.AsyncClient) -> None:
    answer = await ask(live, "/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 3})
    (choice,) = answer["choices"]
    entries = choice["logprobs"]["content"]
    assert len(entries) == len(choice["token_ids"]) == answer["usage"]["completion_tokens"]
    for entry in entries:
        assert entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 3
        values = [top["logprob"] for top in entry["top_logprobs"]]
        assert values == sorted(values, reverse=True)
        assert entry["logprob"] <= values[0] + 1e-6
    raw = bytes(byte for entry in entries for byte in entry["bytes"])
    assert raw.decode("utf-8", "replace").startswith(choice["message"]["content"].rstrip("\ufffd"))


@pytest.mark.parametrize("top", [None, 0])
async def test_chat_logprobs_without_top_name_the_chosen_token_only(
    live: httpx.AsyncClient, top: int | None
) -> None:
    answer = await ask(live, "/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": top})
    assert all(entry["top_logprobs"] == [] for entry in answer["choices"][0]["logprobs"]["content"])


async def test_streamed_chat_logprobs_are_those_of_the_whole_answer(live: httpx.AsyncClient) -> None:
    body = {**CHAT, "logprobs": True, "top_logprobs": 2, "n": 2}
    whole = await ask(live, "/v1/chat/completions", body)
    parts = await chunks(live, "/v1/chat/completions", body)
    for index in range(2):
        mine = [chunk["choices"][0] for chunk in parts if chunk["choices"][0]["index"] == index]
        entries = [entry for choice in mine for entry in (choice["logprobs"] or {"content": []})["content"]]
        expected = whole["choices"][index]["logprobs"]["content"]
        assert [entry["token"] for entry in entries] == [entry["token"] for entry in expected]
        assert [entry["logprob"] for entry in entries] == pytest.approx(
            [entry["logprob"] for entry in expected], abs=1e-4
        )
        assert mine[0]["delta"]["role"] == "assistant"
        assert (
            "".join(choice["delta"]["content"] for choice in mine)
            == (whole["choices"][index]["message"]["content"])
        )


async def test_completion_logprobs_in_the_older_shape(live: httpx.AsyncClient) -> None:
    answer = await ask(live, "/v1/completions", {**TEXT, "logprobs": 2})
    (choice,) = answer["choices"]
    logprobs = choice["logprobs"]
    assert {len(column) for column in logprobs.values()} == {len(choice["token_ids"])}
    for token, value, top in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        assert top[token] == value and 2 <= len(top) <= 3
    assert logprobs["text_offset"] == sorted(logprobs["text_offset"])
    for token, start in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        if not token.startswith(("bytes:", "<|")):
            # The random target likes broken characters; what follows one counts from where it began.
            assert token in choice["text"][start : start + len(token) + 4]


async def test_logprobs_0_names_the_chosen_token_only(live: httpx.AsyncClient) -> None:
    answer = await ask(live, "/v1/completions", {**TEXT, "logprobs": 0})
    assert all(len(top) == 1 for top in answer["choices"][0]["logprobs"]["top_logprobs"])


async def test_echo_repeats_prompts_and_puts_their_logprobs_first(live: httpx.AsyncClient) -> None:
    body = {**TEXT, "prompt": ["hello there", "world"], "echo": True, "logprobs": 2, "n": 2}
    answer = await ask(live, "/v1/completions", body)
    for choice, prompt in zip(answer["choices"], ["hello there"] * 2 + ["world"] * 2, strict=True):
        assert choice["text"].startswith(prompt) and len(choice["text"]) > len(prompt)
        logprobs, count = choice["logprobs"], len(choice["prompt_token_ids"])
        assert {len(column) for column in logprobs.values()} == {count + len(choice["token_ids"])}
        assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
        assert all(value is not None for value in logprobs["token_logprobs"][1:])
        assert "".join(logprobs["tokens"][:count]) == prompt
        for token, start in zip(logprobs["tokens"][:count], logprobs["text_offset"], strict=False):
            assert prompt[start:].startswith(token)
        assert logprobs["text_offset"][count] == len(prompt)


async def test_streamed_echo_is_the_whole_answer(live: httpx.AsyncClient) -> None:
    body = {**TEXT, "prompt": ["hello", "there"], "echo": True, "logprobs": 1}
    whole = await ask(live, "/v1/completions", body)
    parts = await chunks(live, "/v1/completions", body)
    for index, choice in enumerate(whole["choices"]):
        mine = [chunk["choices"][0] for chunk in parts if chunk["choices"][0]["index"] == index]
        assert "".join(part["text"] for part in mine) == choice["text"]
        for column in ("tokens", "text_offset"):
            assert [one for part in mine for one in part["logprobs"][column]] == choice["logprobs"][column]


@pytest.mark.parametrize("stream", [False, True])
async def test_max_tokens_0_scores_the_prompt_alone(live: httpx.AsyncClient, stream: bool) -> None:
    body = {**TEXT, "echo": True, "logprobs": 1, "max_tokens": 0}
    if stream:
        choice = (await chunks(live, "/v1/completions", body))[-1]["choices"][0]
    else:
        answer = await ask(live, "/v1/completions", body)
        assert answer["usage"]["completion_tokens"] == 0
        choice = answer["choices"][0]
        assert len(choice["logprobs"]["tokens"]) == len(choice["prompt_token_ids"])
    assert (choice["text"], choice["finish_reason"], choice["token_ids"]) == ("hello there", "length", [])


async def test_prompt_logprobs_agree_with_echo(live: httpx.AsyncClient) -> None:
    echoed = await ask(live, "/v1/completions", {**TEXT, "echo": True, "logprobs": 0, "max_tokens": 0})
    scored = await ask(live, "/v1/completions", {**TEXT, "prompt_logprobs": 2, "max_tokens": 1})
    (choice,) = scored["choices"]
    first, *rest = choice["prompt_logprobs"]
    assert first is None and len(rest) == len(choice["prompt_token_ids"]) - 1
    values = echoed["choices"][0]["logprobs"]["token_logprobs"][1:]
    for token, entry, value in zip(choice["prompt_token_ids"][1:], rest, values, strict=True):
        assert entry[str(token)]["logprob"] == pytest.approx(value, abs=1e-4)
        assert 2 <= len(entry) <= 3
        assert sorted(one["rank"] for one in entry.values())[:2] == [1, 2]


async def test_prompt_logprobs_of_a_chat(live: httpx.AsyncClient) -> None:
    answer = await ask(live, "/v1/chat/completions", {**CHAT, "prompt_logprobs": 0})
    assert len(answer["prompt_logprobs"]) == len(answer["prompt_token_ids"])
    assert answer["choices"][0]["logprobs"] is None


async def test_tokens_can_be_named_by_their_ids(live: httpx.AsyncClient) -> None:
    more = {"return_tokens_as_token_ids": True}
    answer = await ask(live, "/v1/completions", {**TEXT, "logprobs": 1, **more})
    (choice,) = answer["choices"]
    assert choice["logprobs"]["tokens"] == [f"token_id:{token}" for token in choice["token_ids"]]
    answer = await ask(live, "/v1/chat/completions", {**CHAT, "logprobs": True, **more})
    (choice,) = answer["choices"]
    assert [e["token"] for e in choice["logprobs"]["content"]] == [
        f"token_id:{token}" for token in choice["token_ids"]
    ]


async def test_probabilities_of_all_likely_tokens_stay_below_one(live: httpx.AsyncClient) -> None:
    answer = await ask(live, "/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 20})
    for entry in answer["choices"][0]["logprobs"]["content"]:
        assert 0 < sum(math.exp(top["logprob"]) for top in entry["top_logprobs"]) <= 1 + 1e-5


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("/v1/chat/completions", {"top_logprobs": 2}, "top_logprobs"),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ("/v1/chat/completions", {"logprobs": 3}, "logprobs"),
        ("/v1/chat/completions", {"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ("/v1/chat/completions", {"echo": True}, "echo"),
        ("/v1/completions", {"prompt": "a", "logprobs": 21}, "logprobs"),
        ("/v1/completions", {"prompt": "a", "logprobs": -1}, "logprobs"),
        ("/v1/completions", {"prompt": "a", "logprobs": True}, "logprobs"),
        ("/v1/completions", {"prompt": "a", "prompt_logprobs": -1}, "prompt_logprobs"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 0}, "max_tokens"),
    ],
)
async def test_bad_logprob_requests_name_the_field(
    client: httpx.AsyncClient, backend: Any, path: str, change: dict[str, Any], param: str
) -> None:
    response = await client.post(path, json={**(CHAT if "chat" in path else TEXT), **change})
    assert response.status_code == 400 and response.json()["error"]["param"] == param
    assert backend.seen == []


def test_bytes_that_are_no_characters_are_escaped(encoder: PromptEncoder) -> None:
    vocabulary = encoder.vocabulary
    ids = encoder.text("a€")
    pieces = [vocabulary.piece(token) for token in ids]
    assert b"".join(piece.raw for piece in pieces) == "a€".encode()
    assert [piece.text for piece in pieces[1:]] == ["\\xe2", "\\x82", "\\xac"]
    assert pieces[1].legacy == "bytes:\\xe2" and pieces[0].legacy == "a"
    assert vocabulary.piece(10_000).text == "token_id:10000"
    assert vocabulary.piece(4).text == "<|end|>"
    assert vocabulary.offsets().push([*ids, *encoder.text("b")]) == [0, 1, 1, 1, 2]
