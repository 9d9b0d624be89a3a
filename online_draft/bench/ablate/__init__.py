"""`bench ablate`: variants of the drafter, trained alike, compared by τ and by tokens per second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Console

from online_draft.bench.ablate.data import load_data
from online_draft.bench.ablate.options import AblateOptions
from online_draft.bench.ablate.report import ablate_report, print_report
from online_draft.bench.ablate.rows import RowSpec, read_row, row_specs
from online_draft.bench.ablate.speed import SpeedMeter
from online_draft.bench.ablate.variants import NAMES
from online_draft.bench.ablate.workers import Message, make_rows
from online_draft.bench.files import write_json
from online_draft.bench.progress import Bars
from online_draft.models.loading import load_target
from online_draft.training.distillation.stopping import Stop


def run(options: AblateOptions, console: Console | None = None) -> int:
    """Make what is missing of the table, print it, write the JSON. Returns 1 if interrupted, else 0.

    Ends early by Ctrl-C, SIGTERM or `max_hours`; the same options go on where it was.
    """
    options.check()
    console = console or Console()
    with Stop(options.max_hours, lambda: console.print("ending; the same command goes on")) as stop:
        loaded = load_target(options.target)
        with Bars(console) as bars:
            data = load_data(options, loaded, lambda done, total: bars.update("answers", done, total), stop)
            if data is None:
                return 1 if stop() == "signal" else 0
            specs = row_specs(options, data.key)
            missing = [spec for spec in specs if read_row(spec.path(options.work_directory)) is None]
            make_rows(options, loaded, data, missing, _Training(bars, options, specs, missing).hear, stop)
            if options.speed != "skip" and not stop():
                meter = SpeedMeter(options, loaded, data)
                meter.measure_all(specs, lambda done, total: bars.update("speed", done, total), stop)
    report = ablate_report(options, loaded, data, specs)
    print_report(report, console)
    write_json(report, options.json_path)
    return 1 if stop() == "signal" else 0


class _Training:
    """Turns what workers say into one bar over all steps of all rows, with the time left."""

    def __init__(
        self,
        bars: Bars,
        options: AblateOptions,
        specs: Sequence[RowSpec],
        missing: Sequence[RowSpec],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bars = bars
        self._rows = len(specs)
        self._finished = len(specs) - len(missing)
        self._total = len(missing) * options.steps
        self._steps: dict[str, int] = {}
        self._first: dict[str, int] = {}
        self._clock = clock
        self._started = clock()

    def hear(self, message: Message) -> None:
        """A step or a row is done."""
        if message.kind == "row":
            self._finished += 1
        else:
            self._first.setdefault(message.row, message.steps)
            self._steps[message.row] = message.steps
        done = sum(self._steps.values())
        made = done - sum(self._first.values())
        note = f"row {min(self._finished + 1, self._rows)} of {self._rows}: {message.row}"
        if made:
            left = (self._total - done) * (self._clock() - self._started) / made / 60
            note += f"; about {left:.0f} min left"
        self._bars.update("training steps", done, self._total, note)


__all__ = ["NAMES", "AblateOptions", "run"]
