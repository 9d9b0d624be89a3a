"""Routes beside generation: tokens, models, health, readiness, version, metrics, the OpenAPI document."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from online_draft import __version__
from online_draft.serve.api.prompts import PromptEncoder
from online_draft.serve.api.replies import DetokenizeReply, ModelCard, ModelList, TokenizeReply

MESSAGES = [{"role": "user", "content": "hello"}]


async def post(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_tokenize_and_back(client: httpx.AsyncClient, encoder: PromptEncoder) -> None:
    body = {"model": "tiny", "prompt": "hello <|end|>", "return_token_strs": True}
    reply = TokenizeReply.model_validate(await post(client, "/tokenize", body))
    assert reply.tokens == encoder.text("hello <|end|>") and reply.count == len(reply.tokens)
    assert reply.max_model_len == 64 and reply.token_strs and len(reply.token_strs) == reply.count
    assert 4 not in reply.tokens
    back = DetokenizeReply.model_validate(await post(client, "/detokenize", {"tokens": [*reply.tokens, 4]}))
    assert back.prompt == "hello <|end|><|end|>"


async def test_tokenize_of_messages_is_what_a_chat_runs_on(client: httpx.AsyncClient, backend: Any) -> None:
    reply = await post(client, "/tokenize", {"messages": MESSAGES})
    await post(client, "/v1/chat/completions", {"model": "tiny", "messages": MESSAGES})
    assert tuple(reply["tokens"]) == backend.seen[0].prompt_ids and "token_strs" not in reply
    closed = await post(client, "/tokenize", {"messages": MESSAGES, "add_generation_prompt": False})
    assert closed["tokens"] == reply["tokens"][:-1]


async def test_an_empty_text_has_no_tokens(client: httpx.AsyncClient) -> None:
    assert (await post(client, "/tokenize", {"prompt": ""}))["count"] == 0
    assert (await post(client, "/detokenize", {"tokens": []}))["prompt"] == ""


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, None),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, None),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": MESSAGES, "add_special_tokens": True}, "add_special_tokens"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [300]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens.0"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
    ],
)
async def test_bad_token_requests_name_the_field(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], param: str | None
) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 400 and response.json()["error"]["param"] == param
    response = await client.post(path, json={**body, "model": "other", "prompt": "a", "tokens": [1]})
    assert response.status_code in (400, 404)


async def test_the_assistants_last_message_can_be_continued(client: httpx.AsyncClient, backend: Any) -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": "one <|end|>"}]
    body = {"model": "tiny", "messages": messages, "continue_final_message": True}
    await post(client, "/v1/chat/completions", body)
    whole = await post(client, "/tokenize", {"messages": messages, "add_generation_prompt": False})
    assert backend.seen[0].prompt_ids == tuple(whole["tokens"][:-1])


async def test_models_describe_themselves(client: httpx.AsyncClient) -> None:
    (card,) = ModelList.model_validate((await client.get("/v1/models")).json()).data
    assert (card.id, card.max_model_len, card.root) == ("tiny", 64, "tiny")
    assert ModelCard.model_validate((await client.get("/v1/models/tiny")).json()) == card
    response = await client.get("/v1/models/a/b")
    assert response.status_code == 404 and response.json()["error"]["code"] == "model_not_found"


async def test_a_dead_engine_is_unhealthy_and_a_draining_one_not_ready(
    client: httpx.AsyncClient, backend: Any
) -> None:
    assert (await client.get("/ready")).json() == {"status": "ready"}
    backend.state = {"ready": True, "draining": True}
    assert (await client.get("/health")).status_code == 200
    assert (await client.get("/ready")).json()["error"]["code"] == "draining"
    backend.state = {"ready": True, "engine_error": "the engine thread hangs"}
    for path in ("/health", "/ready"):
        response = await client.get(path)
        assert response.status_code == 503 and response.json()["error"]["code"] == "engine_dead"
        assert "hangs" not in response.text


async def test_version(client: httpx.AsyncClient) -> None:
    assert (await client.get("/version")).json() == {"version": __version__}


async def samples(client: httpx.AsyncClient) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(response.text)
    found = [sample for family in families for sample in family.samples]
    assert all(sample.name.startswith("online_draft_") for sample in found)
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in found}


async def test_metrics_count_requests_tokens_and_time(client: httpx.AsyncClient) -> None:
    chat = {"model": "tiny", "messages": MESSAGES}
    await post(client, "/v1/chat/completions", {**chat, "n": 2})
    await client.post("/v1/chat/completions", json={**chat, "stream": True})
    await client.post("/v1/chat/completions", json={**chat, "temperature": -1})
    await client.get("/secret/path")
    found = await samples(client)

    def value(name: str, **labels: str) -> float:
        return found[f"online_draft_{name}", tuple(sorted(labels.items()))]

    tiny = {"model": "tiny"}
    route = "/v1/chat/completions"
    assert value("http_requests_total", route=route, method="POST", status="200") == 2
    assert value("http_requests_total", route=route, method="POST", status="400") == 1
    assert value("http_requests_total", route="other", method="GET", status="404") == 1
    assert value("choices_total", **tiny, finish_reason="stop") == 3
    assert value("tokens_total", **tiny, kind="completion") == 12
    assert (
        value("tokens_total", **tiny, kind="drafted") == 36
        and value("tokens_total", **tiny, kind="accepted") == 3
    )
    assert (
        value("time_to_first_token_seconds_count", **tiny)
        == value("time_per_output_token_seconds_count", **tiny)
        == 1
    )
    assert value("http_request_seconds_count", route=route) == 3
    assert value("http_requests_in_flight") == 1  # this one
    assert not [name for name in found if "secret" in str(name)]


async def test_the_document_says_what_bodies_and_failures_look_like(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    for path, schema in (("/v1/chat/completions", "ChatBody"), ("/v1/completions", "CompletionBody")):
        operation = document["paths"][path]["post"]
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        assert body == {"$ref": f"#/components/schemas/{schema}"}
        assert set(operation["responses"]) == {
            *("200", "400", "401", "403", "404", "413", "429", "500", "503")
        }
        assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
        assert "messages" in document["components"]["schemas"]["ChatBody"]["properties"]
    references = [
        part.split('"')[0] for part in str(document).replace("'", '"').split("#/components/schemas/")[1:]
    ]
    assert set(references) <= set(document["components"]["schemas"])
    statuses = {
        status for path in document["paths"].values() for op in path.values() for status in op["responses"]
    }
    assert "422" not in statuses
