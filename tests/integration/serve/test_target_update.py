"""The target's weights change under replicas that serve: who notices what, and what is refused."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from online_draft.buffer.records import decode
from online_draft.core import GenerationRequest, SamplingParams, StepOutput
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.models.loading import load_target
from online_draft.redis_server import PrivateRedis
from online_draft.registry.journal import DecisionJournal
from online_draft.registry.ladder import fold
from online_draft.registry.target_line import TargetLine, copy_path, has_copy
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.config import ServiceConfig
from online_draft.serve.replica import Replica
from online_draft.store import ArtifactStore, RedisKeys, connect_redis

ENGINE = EngineConfig(max_sequences=4, speculation="always", kernels="off")


def requests(count: int, name: str, tokens: int = 40) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            f"{name}{i}", tuple(range(10 + i, 30 + i)),
            SamplingParams(temperature=0.8 * (i % 2), max_tokens=tokens, seed=i, ignore_eos=True),
        )
        for i in range(count)
    ]  # fmt: skip


def perturbed(
    source: Path, to: Path, seed: int, change: Callable[[dict[str, Any]], object] | None = None
) -> Path:
    """A copy of a target with other weights."""
    shutil.copytree(source, to)
    weights = load_file(to / "model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    for tensor in weights.values():
        tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    if change is not None:
        change(weights)
    save_file(weights, to / "model.safetensors", {"format": "pt"})
    return to


def plain(target: Path, asked: list[GenerationRequest]) -> dict[str, list[int]]:
    engine = Engine(load_target(target), replace(ENGINE, speculation="off", ngram=False))
    said: dict[str, list[int]] = {request.request_id: [] for request in asked}
    for request in asked:
        engine.add(request)
    while engine.has_work:
        for output in engine.step():
            said[output.request_id] += output.token_ids
    return said


class Site:
    """A store and a Redis, and the replicas that were started there."""

    def __init__(self, root: Path, tiny: Path, redis_url: str, stack: ExitStack) -> None:
        self.root, self.tiny, self._stack = root, tiny, stack
        self._config = ServiceConfig(
            target=str(tiny), model_name="tiny", store=str(root / "store"), cache_dir=str(root / "cache"),
            redis_url=redis_url, admin_key="k", threads=1, poll_interval_s=0.05, engine=ENGINE,
            drafter="untrained",
        )  # fmt: skip
        self.store = ArtifactStore(root / "store")
        self.client = connect_redis(redis_url)

    def replica(self) -> Replica:
        made = Replica(self._config.as_dict())
        self._stack.callback(made.close)
        return made

    def records(self) -> dict[str, str]:
        """Target by prompt and answer."""
        entries: Any = self.client.xrange(RedisKeys().records)
        found = [decode(fields[b"d"]) for _, fields in entries]
        return {f"{record.prompt_ids[0]}-{record.output_ids}": record.target for record in found}


@pytest.fixture
def site(tmp_path: Path, tiny: Path, redis_server: PrivateRedis) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path, tiny, redis_server.url, stack)


async def answer(replica: Replica, request: GenerationRequest) -> tuple[list[int], StepOutput]:
    tokens: list[int] = []
    async for output in replica.generate(request):
        tokens += output.token_ids
    return tokens, output


async def serves(replica: Replica, fingerprint: str) -> None:
    async with asyncio.timeout(30):
        while replica.status()["fingerprint"] != fingerprint or replica.status()["target_update"]["changing"]:
            await asyncio.sleep(0.01)


async def test_an_update_reaches_every_replica_and_each_answer_is_one_targets(
    site: Site, tmp_path: Path
) -> None:
    one, two = site.replica(), site.replica()
    origin = str(one.status()["fingerprint"])
    early, late = requests(3, "early", 120), requests(6, "late")
    new = perturbed(site.tiny, tmp_path / "new", 1)
    expected = {**plain(site.tiny, early), **plain(new, late)}
    assert any(plain(site.tiny, late)[r.request_id] != expected[r.request_id] for r in late)
    running = [asyncio.create_task(answer(one, request)) for request in early]
    async with asyncio.timeout(20):
        while one.status()["running"] < 3:
            await asyncio.sleep(0)
    written = await asyncio.to_thread(one.update_target, str(new), "admin", "test", 30.0)
    fingerprint = written["decision"]["version"]
    waiting = [asyncio.create_task(answer(one, request)) for request in late]
    for request, task in zip(early, running, strict=True):
        tokens, last = await task
        assert tokens == expected[request.request_id] and last.target == origin
    await asyncio.gather(*waiting, serves(one, fingerprint), serves(two, fingerprint))
    # Those that came between the decision and the replica's look at it are the old target's.
    old = plain(site.tiny, late)
    for request, task in zip(late, waiting, strict=True):
        tokens, last = await task
        assert tokens == (old if last.target == origin else expected)[request.request_id]
    for replica in (one, two):
        for request in requests(6, "late"):
            tokens, last = await answer(replica, replace(request, request_id=f"{request.request_id}-again"))
            assert tokens == expected[request.request_id], replica.id
            assert last.target == fingerprint and last.drafter_version is not None
        status = replica.status()
        assert status["origin"] == origin and status["rung"] == "champion" and not status["engine_error"]
        assert replica.check_integrity() == {"blocks_held": 0, "requests": 0}


async def test_the_drafter_is_carried_over_unproven_and_a_restart_finds_the_update(
    site: Site, tmp_path: Path
) -> None:
    first = site.replica()
    origin = str(first.status()["fingerprint"])
    new = perturbed(site.tiny, tmp_path / "new", 1)
    written = first.update_target(str(new), "admin:ops", "rollout 7", 1.0)["decision"]
    fingerprint, version = written["version"], written["numbers"]["drafter"]
    assert written["numbers"]["from"] == origin and written["reason"] == "rollout 7"
    await serves(first, fingerprint)
    desk = AdminDesk(site.store.root, origin, None, RedisKeys())
    shown = desk.target()
    assert (shown["fingerprint"], shown["origin"], shown["unproven"]) == (fingerprint, origin, True)
    (entry,) = desk.drafters()
    assert entry["version"] == version and entry["unproven"] and entry["roles"] == ["champion", "baseline"]
    assert entry["provenance"]["carried_over_from"] == f"{origin}/untrained"
    (decision,) = DecisionJournal(site.store, fingerprint).read()
    assert decision.numbers["unproven"] and f"{origin}/untrained" in decision.reason
    # The directory that it came from may go; the configured target is still the old one.
    shutil.rmtree(new)
    second = site.replica()
    assert second.status()["fingerprint"] == fingerprint and second.status()["drafter_version"] == version
    # Back to the weights that were configured: their own champion drafts again, nothing is carried over.
    back = second.update_target(str(site.tiny), "admin", "back", 1.0)["decision"]
    assert back["version"] == origin and back["numbers"]["drafter"] == "untrained"
    for replica in (first, second):
        await serves(replica, origin)
    expected = plain(site.tiny, requests(2, "r"))
    for request in requests(2, "r"):
        tokens, last = await answer(first, request)
        assert tokens == expected[request.request_id] and last.drafter_version == "untrained"
    assert not desk.target()["unproven"] and fold(desk.journal.read()).champion == "untrained"


async def test_records_say_which_target_gave_them(site: Site, tmp_path: Path) -> None:
    replica = site.replica()
    origin = str(replica.status()["fingerprint"])
    tokens, _ = await answer(replica, requests(1, "r")[0])
    said = {f"10-{tuple(tokens)}": origin}
    fingerprint = replica.update_target(str(perturbed(site.tiny, tmp_path / "new", 1)), "a", "t", 1.0)[
        "decision"
    ]["version"]
    await serves(replica, fingerprint)
    tokens, _ = await answer(replica, requests(1, "s")[0])
    said[f"10-{tuple(tokens)}"] = fingerprint
    async with asyncio.timeout(10):
        while len(site.records()) < 2:
            await asyncio.sleep(0.02)
    assert site.records() == said


async def test_answers_that_take_too_long_are_aborted(site: Site, tmp_path: Path) -> None:
    replica = site.replica()
    new = perturbed(site.tiny, tmp_path / "new", 1)
    request = requests(1, "long", tokens=900)[0]
    running = asyncio.create_task(answer(replica, request))
    async with asyncio.timeout(20):
        while not replica.status()["running"]:
            await asyncio.sleep(0)
    written = await asyncio.to_thread(replica.update_target, str(new), "a", "t", 0.0)
    tokens, last = await running
    assert last.finish_reason == "abort" and "updated" in str(last.error)
    assert tokens == plain(site.tiny, [request])["long0"][: len(tokens)]
    await serves(replica, written["decision"]["version"])


def break_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_wrong_with_weights_is_named_and_nothing_changes(site: Site, tmp_path: Path) -> None:
    replica = site.replica()
    origin = str(replica.status()["fingerprint"])
    name = "model.layers.0.mlp.up_proj.weight"

    def refused(path: Path) -> tuple[str, str]:
        answer = replica.update_target(str(path), "admin", "test", 1.0)
        assert answer["kind"] == "ConfigError", answer
        return answer["field"], answer["refused"]

    def broken(label: str, change: Callable[[dict[str, Any]], object]) -> Path:
        return perturbed(site.tiny, tmp_path / label, 1, change)

    assert refused(tmp_path / "nowhere")[0] == "path"
    assert refused(site.tiny) == ("path", f"path: holds the weights that are served already, {origin}")
    assert "finite" in refused(broken("nan", lambda w: w[name][0].fill_(float("nan"))))[1]
    assert (
        refused(broken("shape", lambda w: w.update({name: w[name][:-1].contiguous()})))[0]
        == f"weights.{name}"
    )
    assert refused(broken("lacks", lambda w: w.pop(name))) == (
        f"weights.{name}",
        f"weights.{name}: is missing",
    )
    assert refused(broken("more", lambda w: w.update(extra=torch.ones(2))))[0] == "weights.extra"
    assert refused(broken("ints", lambda w: w.update({name: w[name].to(torch.int8)})))[0] == f"weights.{name}"
    other = broken("config", lambda w: None)
    break_config(other, rope_theta=5.0, rope_parameters=None)
    assert refused(other)[0] == "config.rope_theta"
    words = broken("words", lambda w: None)
    tokenizer = json.loads((words / "tokenizer.json").read_text())
    (words / "tokenizer.json").write_text(json.dumps({**tokenizer, "normalizer": {"type": "NFC"}}))
    assert refused(words)[0] == "tokenizer"
    (words / "tokenizer.json").write_text("no json")
    assert refused(words)[0] == "tokenizer"
    pickled = broken("pickled", lambda w: None)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    field, message = refused(pickled)
    assert field == "path" and "pickle" in message
    torn = broken("torn", lambda w: None)
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:-100])
    assert refused(torn)[0] == "path"
    assert not TargetLine(site.store, origin).updates()
    assert site.store.list("registry") == [origin]
    bare = broken("bare", lambda w: None)  # weights and configuration alone are enough
    for path in bare.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    fingerprint = replica.update_target(str(bare), "admin", "test", 1.0)["decision"]["version"]
    assert has_copy(site.store, fingerprint)
    assert "tokenizer.json" in site.store.list(copy_path(fingerprint))


async def test_a_copy_that_was_damaged_is_not_taken_and_said(site: Site, tmp_path: Path) -> None:
    one = site.replica()
    origin = str(one.status()["fingerprint"])
    one._target._watcher.stop()
    new = perturbed(site.tiny, tmp_path / "new", 1)
    fingerprint = one.update_target(str(new), "admin", "test", 1.0)["decision"]["version"]
    path = f"{copy_path(fingerprint)}/model.safetensors"
    data = bytearray(site.store.read_bytes(path))
    data[-1] ^= 1
    site.store.write_bytes(path, bytes(data))
    with pytest.raises(Exception, match="holds"):
        one._target.refresh()
    assert one.status()["fingerprint"] == origin and one.status()["rung"] == "champion"
    request = requests(1, "r")[0]
    assert (await answer(one, request))[0] == plain(site.tiny, [request])["r0"]
