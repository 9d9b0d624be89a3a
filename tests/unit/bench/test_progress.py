from __future__ import annotations

import io

import pytest
from rich.console import Console

from online_draft.bench import progress
from online_draft.bench.progress import Bars


def test_lines_say_how_long_the_rest_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    file = io.StringIO()
    with Bars(Console(file=file, width=120)) as bars:
        bars.update("train", 10, 1000, "loss 3.2")
        now[0] += 5
        bars.update("train", 15, 1000)
        now[0] += 15
        bars.update("train", 30, 1000, "loss 3.1")
        bars.update("train", 1000, 1000)
    assert file.getvalue().splitlines() == [
        "train: 10 of 1000  loss 3.2",
        "train: 30 of 1000  loss 3.1  0:16:10 left",
        "train: 1000 of 1000",
    ]
