"""Two models behind one endpoint: chosen by name, for whom they are, and whose admin routes answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from online_draft.buffer.erasures import ErasureLog
from online_draft.serve.access.config import AccessConfig
from online_draft.serve.access.gate import Gate
from online_draft.serve.access.key import ApiKey, digest_of
from online_draft.serve.access.key_file import write_keys
from online_draft.serve.access.keyring import Keyring
from online_draft.serve.access.limiter import Limiter
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.admin.routes import build_admin_router
from online_draft.serve.admin.system_metrics import SystemMetrics
from online_draft.serve.api.app import Model, Served, build_app
from online_draft.serve.api.prompts import PromptEncoder
from online_draft.serve.api.replies import ModelList
from online_draft.store import ArtifactStore, RedisKeys

KEY = "an admin key"
ADMIN = {"Authorization": f"Bearer {KEY}"}
BODY = {"prompt": "hello", "max_tokens": 3}
ALL = ("big", "large", "small")


@pytest.fixture
async def two(
    backend: Any, encoder: PromptEncoder, target_dir: Path, tmp_path: Path
) -> AsyncIterator[SimpleNamespace]:
    """`big`, alias `large`, and `small`, whose context is shorter; keys of those who may use one or none."""
    models = [Model("big", "f-big", ("large",)), Model("small", "f-small")]
    stores = [str(tmp_path / model.name) for model in models]
    small = AdminDesk(stores[1], "f-small", None, RedisKeys("od", "small"), "small")
    big = AdminDesk(stores[0], "f-big", None, RedisKeys(), "big", [small])
    other = type(backend)()
    keys = [ApiKey(name, digest_of(name), models=allowed) for name, allowed in (
        ("all", None), ("one", ("small",)), ("by-alias", ("large",)), ("none", ("gone",)),
    )]  # fmt: skip
    write_keys(tmp_path / "keys.json", tuple(keys))
    gate = Gate(AccessConfig(), Keyring(tmp_path / "keys.json", ()), Limiter(None, RedisKeys()), KEY)
    app = build_app(
        backend,
        encoder,
        models[0],
        build_admin_router(big, backend, KEY, models=models),
        gate=gate,
        system_metrics=SystemMetrics(big).text,
        more=[
            Served(
                models[1],
                other,
                PromptEncoder(target_dir, max_context=32),
                build_admin_router(small, other, KEY, models=models),
            )
        ],
    )
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        http.headers["Authorization"] = "Bearer all"
        yield SimpleNamespace(http=http, big=backend, small=other, desks=(big, small), stores=stores)
    await gate.shut_down()


async def ask(two: Any, model: str, secret: str = "all", **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {secret}"}
    response: httpx.Response = await two.http.post(
        "/v1/completions", json={**BODY, "model": model, **more}, headers=headers
    )
    return response


async def test_the_body_says_which_model(two: Any) -> None:
    for name, fingerprint in (("big", "f-big"), ("large", "f-big"), ("small", "f-small")):
        answer = (await ask(two, name)).json()
        assert (answer["model"], answer["system_fingerprint"]) == (name, fingerprint)
    assert (len(two.big.seen), len(two.small.seen)) == (2, 1)
    chat = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    assert '"model":"small"' in (await two.http.post("/v1/chat/completions", json=chat)).text
    assert len(two.small.seen) == 2


async def test_each_model_has_its_own_tokenizer_and_bounds(two: Any) -> None:
    assert (await ask(two, "big", max_tokens=40)).status_code == 200
    refused = await ask(two, "small", max_tokens=40)
    assert refused.status_code == 400 and "32" in refused.json()["error"]["message"]
    for name, room in (("large", 64), ("small", 32)):
        answer = await two.http.post("/tokenize", json={"model": name, "prompt": "hello"})
        assert answer.json()["max_model_len"] == room


async def test_all_models_are_listed_under_all_their_names(two: Any) -> None:
    listed = ModelList.model_validate((await two.http.get("/v1/models")).json()).data
    shown = [(card.id, card.root, card.max_model_len, card.aliases) for card in listed]
    assert shown == [
        ("big", "big", 64, ["large"]),
        ("large", "big", 64, ["large"]),
        ("small", "small", 32, []),
    ]
    assert (await two.http.get("/v1/models/large")).json()["root"] == "big"


async def test_an_unknown_model_is_404_and_the_message_names_those_there_are(two: Any) -> None:
    answers = [
        await ask(two, "huge"),
        await two.http.get("/v1/models/huge"),
        await two.http.post("/detokenize", json={"model": "huge", "tokens": [5]}),
        await two.http.get("/ready", params={"model": "huge"}),
    ]
    for answer in answers:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert "'huge'" in error["message"] and "'big', 'small'" in error["message"]


@pytest.mark.parametrize(
    ("secret", "may"),
    [("all", ALL), ("one", ("small",)), ("by-alias", ("big", "large")), ("none", ())],
)
async def test_a_key_opens_its_own_models_only(two: Any, secret: str, may: tuple[str, ...]) -> None:
    headers = {"Authorization": f"Bearer {secret}"}
    listed = (await two.http.get("/v1/models", headers=headers)).json()["data"]
    assert tuple(card["id"] for card in listed) == may
    for name in ALL:
        answer = await ask(two, name, secret)
        assert answer.status_code == (200 if name in may else 403)
        if name not in may:
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("model_not_found", "model")
            assert "does not have access" in error["message"]
    assert (await ask(two, "huge", secret)).status_code == 404
    unnamed = await two.http.post("/tokenize", json={"prompt": "a"}, headers=headers)
    assert unnamed.status_code == (200 if may else 403)
    if may:  # the first that it may use
        assert unnamed.json()["max_model_len"] == (32 if may == ("small",) else 64)


async def test_health_is_of_all_models_or_of_one(two: Any) -> None:
    assert (await two.http.get("/health")).status_code == 200
    two.small.state = {"ready": True, "engine_error": "it hangs"}
    for path in ("/health", "/ready"):
        answer = await two.http.get(path)
        assert answer.status_code == 503 and "model 'small': " in answer.json()["error"]["message"]
        assert (await two.http.get(path, params={"model": "small"})).status_code == 503
        assert (await two.http.get(path, params={"model": "large"})).status_code == 200
    two.small.state = {"ready": True, "draining": True}
    assert (await two.http.get("/health")).status_code == 200
    assert (await two.http.get("/ready")).json()["error"]["code"] == "draining"
    assert (await two.http.get("/ready", params={"model": "big"})).json() == {"status": "ready"}


async def test_metrics_tell_models_apart(two: Any) -> None:
    await ask(two, "large")
    await ask(two, "small")
    await ask(two, "small", stream=True)
    two.desks[1].decide("pause", None, "me", "")
    text = (await two.http.get("/metrics")).text
    assert 'online_draft_choices_total{finish_reason="stop",model="big"} 1.0' in text
    assert 'online_draft_choices_total{finish_reason="stop",model="small"} 2.0' in text
    assert 'online_draft_time_to_first_token_seconds_count{model="small"} 1.0' in text
    assert 'online_draft_decisions_total{kind="pause",model="small"} 1.0' in text
    assert 'online_draft_decisions_total{kind="pause",model="big"} 0.0' in text
    assert text.count("# TYPE online_draft_decisions_total") == 1


async def test_the_admin_api_is_about_the_model_that_is_named(two: Any) -> None:
    listed = (await two.http.get("/admin/api/models", headers=ADMIN)).json()["models"]
    assert [(each["name"], each["aliases"], each["fingerprint"]) for each in listed] == [
        ("big", ["large"], "f-big"),
        ("small", [], "f-small"),
    ]
    paused = await two.http.post("/admin/api/learner/pause", params={"model": "small"}, headers=ADMIN)
    assert paused.status_code == 200
    assert [desk.state().learner_paused for desk in two.desks] == [False, True]
    await two.http.post("/admin/api/learner/pause", params={"model": "large"}, headers=ADMIN)
    await two.http.post("/admin/api/learner/resume", params={"model": "small"}, headers=ADMIN)
    assert [desk.state().learner_paused for desk in two.desks] == [True, False]
    await two.http.post("/admin/api/learner/resume", headers=ADMIN)
    assert [desk.state().learner_paused for desk in two.desks] == [False, False]
    two.small.state = {"ready": True, "target": "small's"}
    status = await two.http.get("/admin/api/status", params={"model": "small"}, headers=ADMIN)
    assert status.json()["replica"]["target"] == "small's"


async def test_no_model_is_named_without_a_key(two: Any) -> None:
    for model in ("big", "small"):
        answer = await two.http.get("/admin/api/models", params={"model": model})
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_admin_key"
    answer = await two.http.get("/admin/api/models", params={"model": "huge"}, headers=ADMIN)
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"


async def test_a_tenant_is_erased_from_all_models_unless_one_is_named(two: Any) -> None:
    def asked() -> list[int]:
        return [ErasureLog(ArtifactStore(store)).last() for store in two.stores]

    body = {"tenant": "gone", "wait_s": 0}
    report = (await two.http.post("/admin/api/buffer/erase", json=body, headers=ADMIN)).json()
    assert asked() == [1, 1] and report["models"]["small"]["request"] == 1
    one = await two.http.post("/admin/api/buffer/erase", json=body, params={"model": "small"}, headers=ADMIN)
    assert asked() == [1, 2] and "models" not in one.json()


async def test_the_document_says_how_a_model_is_chosen(two: Any) -> None:
    paths = (await two.http.get("/openapi.json")).json()["paths"]
    routes = {name: path for name, path in paths.items() if name.startswith("/admin/api/")}
    assert len(routes) > 10
    for name in ("/health", "/ready", *routes):
        for operation in paths[name].values():
            assert "model" in [each["name"] for each in operation["parameters"] if each["in"] == "query"]
            assert "404" in operation["responses"]
