"""The measurement of `bench shift`: the run, then its ceilings, its audit, its report."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from online_draft.bench.decode.audit import Audit
from online_draft.bench.machine import prepare
from online_draft.bench.progress import Bars
from online_draft.bench.shift.ceilings import ceilings
from online_draft.bench.shift.live import LiveRun
from online_draft.bench.shift.options import ShiftOptions
from online_draft.bench.shift.report import Findings, shift_report
from online_draft.bench.shift.simulation import Simulation, replay_ceilings
from online_draft.models.embedded import domains
from online_draft.models.loading import load_target

TARGET = "embedded"
_NARROW = Path(domains.__file__).parent / "drafters" / "narrow"


def measure(options: ShiftOptions, console: Console) -> dict[str, Any]:
    """Simulate, or go live; the report. Ctrl-C ends the run, and what there is of it is reported."""
    options.check()
    prepare("cpu", "float32", options.threads)
    loaded = load_target(TARGET)
    drafter = options.drafter or _NARROW
    with tempfile.TemporaryDirectory(prefix="shift-") as scratch, Bars(console) as bars:
        work = Path(scratch)
        kind = Simulation if options.simulate else LiveRun
        run: Simulation | LiveRun = kind(options, loaded, drafter, work)
        interrupted = False
        try:
            run.play(bars)
            if options.ceilings_asked:
                found = ceilings(options, run.static, loaded, work / "ceilings", bars)
                replay_ceilings(run.tallies, found, loaded, options.tree_nodes)
        except KeyboardInterrupt:
            interrupted = True
            console.print("interrupted: this is what there is", highlight=False)
        differences = Audit(TARGET, "cpu").differences(
            [twin.request for twin in run.twins],
            [list(twin.plain) for twin in run.twins],
            [list(twin.drafted) for twin in run.twins],
        )
        for reason in run.failures[:3]:
            console.print(f"failed: {reason}", markup=False, highlight=False)
        findings = Findings(
            tallies=run.tallies,
            events=run.events,
            ladder=run.state,
            learner=run.learner,
            failed=len(run.failures),
            checked=len(run.twins),
            changed=differences["changed"],
            near_ties=differences["near_tie"],
            requests=run.requests,
            serving_s=run.serving_s,
            elapsed_s=run.elapsed_s,
            kernel=run.kernel,
            interrupted=interrupted,
        )
        return shift_report(options, loaded.name, drafter.name, findings)
