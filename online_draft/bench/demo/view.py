"""What the demo shows: a live picture in a terminal, plain lines elsewhere, a table at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from online_draft.bench.demo.tally import Phase

_BARS = "▁▂▃▄▅▆▇█"
_LINE_EVERY_S = 5.0


@dataclass(slots=True)
class Scene:
    """All there is to show at one moment; `status` is the admin API's answer."""

    endpoint: str
    model: str
    phases: list[Phase] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    doing: str = ""
    elapsed_s: float = 0.0

    @property
    def ladder(self) -> dict[str, Any]:
        """The fold of the journal."""
        ladder: dict[str, Any] = self.status.get("ladder") or {}
        return ladder

    @property
    def learner(self) -> dict[str, Any]:
        """What the learner says of itself."""
        learner: dict[str, Any] = self.status.get("learner") or {}
        return learner


class View(Protocol):
    """Shows scenes as they come."""

    def show(self, scene: Scene) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LiveView:
    """Redraws in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def show(self, scene: Scene) -> None:
        """Replace the picture."""
        self._live.update(picture(scene))

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


class LineView:
    """A line every few seconds and one for every decision, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown_at = float("-inf")
        self._decisions = 0

    def show(self, scene: Scene) -> None:
        """Print what is new."""
        for decision in scene.status.get("decisions") or []:
            if decision["seq"] > self._decisions:
                self._decisions = decision["seq"]
                self._print(scene, decided(decision))
        if time.monotonic() - self._shown_at < _LINE_EVERY_S or not scene.phases:
            return
        self._shown_at = time.monotonic()
        phase, learner = scene.phases[-1], scene.learner
        self._print(
            scene,
            f"{phase.domain}: {len(phase.replies)} requests, τ {number(phase.tau_now)}; {speeds(phase)}; "
            f"learner {learner.get('state', 'unknown')}, {learner.get('slices', 0)} slices",
        )

    def _print(self, scene: Scene, line: str) -> None:
        self._console.print(
            f"{scene.elapsed_s:6.1f} s  {line}", highlight=False, markup=False, soft_wrap=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


def picture(scene: Scene) -> RenderableType:
    """The live picture."""
    head = Text(f"{scene.endpoint}/v1   model {scene.model}   {scene.elapsed_s:.0f} s   {scene.doing}")
    decisions = [Text(decided(decision)) for decision in (scene.status.get("decisions") or [])[-5:]]
    ladder = scene.ladder
    counts = ", ".join(f"{ladder.get(name, 0)} {name}" for name in ("proposed", "promoted", "refused"))
    return Group(
        head,
        phase_table(scene.phases, with_trend=True),
        Panel(learner_text(scene.learner), title="learner", title_align="left"),
        Panel(
            Group(*decisions) if decisions else Text("-"),
            title=f"drafter {ladder.get('champion') or 'none'}: {counts}",
            title_align="left",
        ),
    )


def phase_table(phases: Sequence[Phase], with_trend: bool) -> Table:
    """One row per domain."""
    table = Table(expand=with_trend)
    names = ["domain", "requests", "τ at shift", "τ now" if with_trend else "τ final", "tokens/s", "plain"]
    for index, name in enumerate(names):
        table.add_column(name, justify="left" if index == 0 else "right")
    if with_trend:
        table.add_column("τ by burst", ratio=1, no_wrap=True)
    for phase in phases:
        tau = phase.tau_now if with_trend else phase.tau_final
        row = [
            phase.domain,
            str(len(phase.replies)),
            number(phase.tau_at_shift),
            number(tau),
            number(phase.speed(plain=False), 0),
            number(phase.speed(plain=True), 0),
        ]
        table.add_row(*row, *([sparkline(phase.taus[-60:])] if with_trend else []))
    return table


def learner_text(learner: dict[str, Any]) -> Text:
    """State, progress and the last look."""
    if not learner:
        return Text("no word yet")
    reason = f" ({learner['reason']})" if learner.get("reason") else ""
    feed = learner.get("feed") or {}
    slices = f"{learner.get('slices', 0)} slices, loss {number(learner.get('loss'))}"
    records = f"{feed.get('training', 0)} records to train on, {feed.get('held_out', 0)} held out"
    lines = [f"{learner.get('state')}{reason}   {slices}   {records}"]
    look = learner.get("last_look")
    if look:
        verdict = "passed" if look["passed"] else "failed"
        lines.append(f"look {look['look']} on {look['records']} held-out records {verdict}: {look['reason']}")
    return Text("\n".join(lines))


def decided(decision: dict[str, Any]) -> str:
    """One decision in a line."""
    return f"{decision['kind']:<9} {decision['version'] or '':<22} {decision['actor']}: {decision['reason']}"


def speeds(phase: Phase) -> str:
    """Tokens per second beside plain decoding."""
    fast, plain = phase.speed(plain=False), phase.speed(plain=True)
    if fast is None or plain is None:
        return "no speed yet"
    return f"{fast:.0f} tokens/s, plain {plain:.0f} ({fast / plain:.2f}x)"


def sparkline(values: Sequence[float]) -> str:
    """Bars from 1.0 (plain decoding) up to the largest value."""
    top = max([*values, 2.0])
    last = len(_BARS) - 1
    return "".join(_BARS[max(0, min(last, round((value - 1) / (top - 1) * last)))] for value in values)


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"
