"""`buffer`: the books of the replay buffer, and the erasure of a tenant."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from online_draft.cli.options import AsJson
from online_draft.cli.system import System, of_running_system, of_system

buffer_app = typer.Typer(help="The replay buffer.", no_args_is_help=True)


@buffer_app.command("stats")
@of_running_system
def buffer_stats(system: System, as_json: AsJson = False) -> None:
    """The books: produced = stored + spooled + dropped + erased, and what became of what was stored."""
    stats = system.online().buffer()
    if as_json:
        print(json.dumps(stats, indent=2))
        return
    writers = stats["writers"]
    names = ("produced", "stored", "spooled", "dropped", "erased", "opted_out")
    _line("written", {name: writers[name] for name in names})
    if writers["tokens"]:
        print(f"{'':<11} {writers['bytes'] / writers['tokens']:.2f} bytes per token, prompts included")
    _line("stream", stats["stream"])
    if stats["reader"] is None:
        print("the learner doesn't run")
    else:
        _line("read", stats["reader"])
        reservoirs = dict(stats["reservoirs"])
        segments = reservoirs.pop("segments")
        _line("taken in", reservoirs)
        for name, sizes in segments.items():
            _line(f"  {name}", sizes)
    _line("erasures", stats["erasures"])


@buffer_app.command("erase")
@of_system
def buffer_erase(
    system: System,
    tenant: Annotated[str, typer.Option(help="Whose records, prompts and n-grams are forgotten.")],
    as_json: AsJson = False,
) -> None:
    """Forget a tenant: its records in Redis and with the learner, and what n-gram memories hold of it.

    Versions and adapters that were trained on its records are listed; what weights have learnt stays learnt.
    Exit code 1 while somebody has yet to forget; asking again is harmless and finishes what is open.
    """
    if system.offline:
        from online_draft.launch.erasing import erase_offline

        report = erase_offline(system.all_settings, tenant)
    else:
        report = system.online().erase(tenant)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _show(report)
    raise typer.Exit(0 if report["complete"] else 1)


def _show(report: dict[str, Any]) -> None:
    print(f"request {report['request']}: forget tenant {report['tenant']}")
    _line("stream", report["stream"])
    replicas = report.get("replicas", {})
    if replicas:
        done = sum(replicas.values())
        print(f"{'replicas':<11} {done} of {len(replicas)} have forgotten")
    print(f"{'learner':<11} {_LEARNER[report['learner']]}")
    if taught := [*report.get("versions", ()), *report.get("adapters", ())]:
        print(f"{'trained on':<11} {', '.join(taught)} (what they learnt stays)")
    for name, other in report.get("models", {}).items():
        print(f"{'model':<11} {name}: {'has forgotten' if other['complete'] else 'not complete'}")
    if not report["complete"]:
        print("not complete: ask again to see whether it is by then")


_LEARNER = {
    "settled": "nothing is left in its checkpoints",
    "open": "hasn't settled it yet",
    "away": "doesn't run; it will forget before it goes on. Without one: --offline when the system is down",
}


def _line(name: str, values: dict[str, Any]) -> None:
    shown = ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in values.items() if not isinstance(value, bool)
    )
    print(f"{name:<11} {shown}")
