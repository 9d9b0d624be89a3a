"""`online-draft demo`: start the system, send traffic, shift it, watch, sum up."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

from rich.console import Console

from online_draft.bench.demo.options import DemoOptions
from online_draft.bench.demo.tally import Phase
from online_draft.bench.demo.traffic import Ask, Client, Reply
from online_draft.bench.demo.view import LineView, LiveView, Scene, View, phase_table, speeds
from online_draft.errors import ConfigError
from online_draft.launch import ChildSystem, RunFile
from online_draft.launch.run_file import DEMO_DIR, read_run_file
from online_draft.models.embedded.domains import examples
from online_draft.settings import Settings, load_settings

DONE, FAILED, MISSED, INTERRUPTED = 0, 1, 3, 130
_STATUS_EVERY_S = 0.5
_MOSTLY = 0.8
_LEFTOVERS = ("artifacts", "cache", "run.json", "serve.log")


@dataclass(slots=True)
class Outcome:
    """What the demo found, in the form of its JSON; `reached` the margin."""

    phases: list[Phase] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)
    changed: int = 0
    near_ties: int = 0
    reached: bool = False

    @property
    def failures(self) -> list[str]:
        """Why requests failed."""
        return [reason for phase in self.phases for reason in phase.failures]

    @property
    def exit_code(self) -> int:
        """1 for a failed request or a changed output, 3 when the margin was not reached."""
        if self.failures or self.changed:
            return FAILED
        return DONE if self.reached else MISSED

    def as_json(self) -> dict[str, Any]:
        """A public surface, frozen by a test."""
        return {
            "phases": [phase.as_json() for phase in self.phases],
            "versions": self.versions,
            "failed_requests": len(self.failures),
            "changed_outputs": self.changed,
            "near_ties": self.near_ties,
        }


def run(options: DemoOptions) -> int:
    """Run the demo; the exit code. ConfigError, LaunchError when the system can't be started."""
    console = Console()
    settings = _settings(options)
    _make_room(settings.state_dir)
    system = ChildSystem(settings)
    console.print(f"starting target {options.target} with drafter {options.drafter} (log: {system.log})")
    try:
        with system as running:
            console.print(f"the endpoint answers at {running.url}/v1 (model {running.model})")
            outcome = asyncio.run(_play(options, running, console))
            system.keep = options.keep
    except KeyboardInterrupt:
        console.print("interrupted; everything that was started has ended")
        return INTERRUPTED
    if options.keep:
        console.print(f"left running at {running.url}/v1; `online-draft down` ends it")
    _audit(outcome, options.target, console)
    _sum_up(outcome, options, console)
    if options.json_path is not None:
        options.json_path.write_text(json.dumps(outcome.as_json(), indent=2) + "\n")
    return outcome.exit_code


def _settings(options: DemoOptions) -> Settings:
    base = load_settings().state_dir if options.state_dir is None else options.state_dir
    flags = {
        "target": options.target,
        "drafter": options.drafter,
        "port": options.port,
        "state_dir": base / DEMO_DIR,
        # Every step shows what the heads know, and the plain copy of a request finds nothing that the first
        # one left in the cache.
        "engine": {"speculation": "always", "tree_nodes": 8, "prefix_cache": False},
        # Few requests and little time: a candidate shows itself for a moment, then the gate's word is taken.
        "control": {
            "canary_share": 0.25,
            "canary_requests": 8,
            "canary_max_s": 4.0,
            "watch_share": 0.1,
            "watch_min_s": 4.0,
            "watch_s": 20.0,
        },
    }
    return load_settings(flags)


def _make_room(directory: Path) -> None:
    """Every demo starts from its first drafter. ConfigError while an earlier one still runs."""
    earlier = read_run_file(directory)
    if earlier is not None and earlier.alive:
        raise ConfigError("demo", f"one still runs at {earlier.url}; `online-draft down` ends it")
    for name in _LEFTOVERS:
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


async def _play(options: DemoOptions, running: RunFile, console: Console) -> Outcome:
    outcome = Outcome()
    scene = Scene(running.url, running.model, outcome.phases)
    view: View = LiveView(console) if console.is_terminal else LineView(console)
    async with Client(running.url, running.model, running.admin_key, options.concurrency) as client:
        with view:
            player = Player(options, client, view, scene)
            for domain in options.domains:
                phase = Phase(domain, options.window)
                outcome.phases.append(phase)
                outcome.reached = await player.play(phase, last=domain == options.domains[-1])
        ladder = ((await client.status()) or {}).get("ladder") or scene.ladder
    outcome.versions = {name: int(ladder.get(name, 0)) for name in ("proposed", "promoted", "refused")}
    return outcome


class Player:
    """Sends one phase after the other."""

    def __init__(self, options: DemoOptions, client: Client, view: View, scene: Scene) -> None:
        self._options = options
        self._client = client
        self._view = view
        self._scene = scene
        self._started = time.monotonic()
        self._promoted = 0

    async def play(self, phase: Phase, last: bool) -> bool:
        """Send a domain's traffic until the phase is over; whether τ rose by the margin in it."""
        options = self._options
        asks = self._asks(phase.domain)
        self._promoted = self._scene.ladder.get("promoted", 0)
        for number in count():
            self._scene.doing = f"{phase.domain} traffic"
            batch = list(islice(asks, options.burst))
            over = self._over(phase, last)
            burst = await self._watching(self._client.burst(batch))
            phase.add(burst)
            # The last burst has a twin too: that is the speed which was learnt.
            if over or number % options.twin_every == 0:
                phase.add_twin(burst, await self._watching(self._client.burst(batch, plain=True)))
            if over and (not last or self._late() or self._reached(phase)):
                return self._reached(phase)
            self._scene.doing = "pause: the learner's turn"
            await self._watching(asyncio.sleep(options.pause_s))
        raise AssertionError("count() ends")

    def _over(self, phase: Phase, last: bool) -> bool:
        """Whether the next burst is the last."""
        if self._late():
            return True
        if last:
            return self._reached(phase)
        wanted = max(self._options.first_requests, 2 * self._options.window)
        return len(phase.replies) >= wanted - self._options.burst

    def _late(self) -> bool:
        return time.monotonic() - self._started > 60 * self._options.minutes

    def _reached(self, phase: Phase) -> bool:
        """Whether a version promoted since the shift served the last window, and so much better."""
        before, after = phase.tau_at_shift, phase.tau_final
        if before is None or after is None or self._scene.ladder.get("promoted", 0) <= self._promoted:
            return False
        first = phase.replies[0].version
        # The version before may still have its control share.
        learnt = sum(reply.version != first for reply in phase.replies[-phase.window :])
        return learnt >= _MOSTLY * phase.window and after - before >= self._options.margin

    def _asks(self, domain: str) -> Iterator[Ask]:
        """Prompts that the target was never trained on, each with its own seed."""
        for number, example in enumerate(examples(domain, split="heldout")):
            yield Ask(domain, example.prompt, number, self._options.temperature, self._options.max_tokens)

    async def _watching(self, work: Any) -> Any:
        """Await something and keep the picture fresh meanwhile."""
        task = asyncio.ensure_future(work)
        while True:
            status = await self._client.status()
            self._scene.status = status or self._scene.status
            self._scene.elapsed_s = time.monotonic() - self._started
            self._view.show(self._scene)
            done, _ = await asyncio.wait([task], timeout=_STATUS_EVERY_S)
            if done:
                return task.result()


def _audit(outcome: Outcome, target: str, console: Console) -> None:
    """Tell near-ties from changed outputs, by a float64 recomputation where something differs."""
    differing = [pair for phase in outcome.phases for pair in phase.differing()]
    if not differing:
        return
    console.print(f"{len(differing)} answers differ from plain decoding; recomputing them in float64")
    import torch

    from online_draft.decoding.audit import compare_outputs
    from online_draft.models.loading import load_target

    target64 = load_target(target, dtype=torch.float64).target
    for fast, plain in differing:
        verdict = compare_outputs(target64, _request(fast), plain.token_ids, fast.token_ids)
        outcome.near_ties += verdict == "near_tie"
        outcome.changed += verdict == "changed"


def _request(reply: Reply) -> Any:
    from online_draft.core import GenerationRequest, SamplingParams

    ask = reply.ask
    sampling = SamplingParams(temperature=ask.temperature, max_tokens=ask.max_tokens, seed=ask.seed)
    return GenerationRequest("audit", reply.prompt_ids, sampling)


def _sum_up(outcome: Outcome, options: DemoOptions, console: Console) -> None:
    console.print(phase_table(outcome.phases, with_trend=False))
    for phase in outcome.phases:
        console.print(f"{phase.domain}: {speeds(phase)}", highlight=False)
    versions = ", ".join(f"{number} {name}" for name, number in outcome.versions.items())
    checked = sum(len(burst.replies) for phase in outcome.phases for burst, _ in phase.pairs)
    console.print(
        f"drafter versions: {versions}; {checked} answers compared with plain decoding: "
        f"{outcome.changed} changed, {outcome.near_ties} near-ties; {len(outcome.failures)} failed requests",
        highlight=False,
        soft_wrap=True,
    )
    for reason in outcome.failures[:3]:
        console.print(f"failed: {reason}", markup=False, highlight=False)
    rose = "rose" if outcome.reached else "did not rise"
    about = f"τ on {outcome.phases[-1].domain} {rose} by {options.margin} within {options.minutes:g} minutes"
    console.print(about, highlight=False)
