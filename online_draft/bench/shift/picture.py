"""τ over requests as a PNG, with marks where versions came and went. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MARKS = {"promote": ("tab:green", "-"), "roll_back": ("tab:red", "-")}


def can_draw() -> bool:
    """Whether matplotlib is there."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write the picture of a report. ImportError without matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    window, start = report["window"], 0
    for index, phase in enumerate(report["phases"]):
        for name, label, style in (
            ("tau_by_window", "served", {"color": "tab:blue"}),
            ("tau_static_by_window", "starting drafter", {"color": "tab:gray", "linestyle": "--"}),
        ):
            places = [start + window * (number + 0.5) for number in range(len(phase[name]))]
            axes.plot(places, phase[name], marker=".", label=None if index else label, **style)
        ceiling = phase["tau_offline_ceiling"]
        if ceiling is not None:
            axes.hlines(ceiling, start, start + phase["requests"], colors="tab:orange", linestyles=":")
        axes.axvline(start, color="black", linewidth=0.8)
        axes.text(start, 1.01, f" {phase['kind']} {phase['segment']}", transform=axes.get_xaxis_transform())
        start += phase["requests"]
    for event in report["events"]:
        if event["kind"] in _MARKS and event["after_requests"]:
            color, line = _MARKS[event["kind"]]
            axes.axvline(event["after_requests"], color=color, linestyle=line, linewidth=0.6, alpha=0.6)
    axes.set_xlabel("requests (green: promoted, red: rolled back)")
    axes.set_ylabel(f"τ, windows of {window}")
    axes.set_ylim(1.0, 1.05 * axes.dataLim.y1)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
