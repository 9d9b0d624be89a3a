"""The start-up profile: how long a step takes by its size, measured once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from online_draft.models.native.build import cache_directory

MAX_BUCKETS = 7
_SCHEMA = 2
_REPEATS = 25


@dataclass(frozen=True, slots=True)
class ProfileKey:
    """What a profile depends on. `kernel` names whatever else changes the times: the compiled path, the
    drafter's shape, the engine's version of either."""

    target: str
    device: str
    dtype: str
    threads: int
    kernel: str = ""


@dataclass(frozen=True, slots=True)
class StepProfile:
    """Seconds of the parts of a step: the target's forward by rows of the flat batch, the draft (trees
    included) by sequences, and the host's share, which is the same for every step. Sizes ascend."""

    rows: tuple[int, ...]
    row_seconds: tuple[float, ...]
    sequences: tuple[int, ...] = (1,)
    draft_seconds: tuple[float, ...] = (0.0,)
    host_seconds: float = 0.0

    def __post_init__(self) -> None:
        for sizes, seconds in ((self.rows, self.row_seconds), (self.sequences, self.draft_seconds)):
            if not sizes or len(sizes) != len(seconds) or any(a >= b for a, b in pairwise(sizes)):
                raise ValueError(f"sizes {sizes} must ascend and match {len(seconds)} times")
        if min(self.rows[0], self.sequences[0]) < 1 or min(self.row_seconds) <= 0:
            raise ValueError("sizes and times must be positive")
        if not all(0 <= s < 1e6 for s in (*self.row_seconds, *self.draft_seconds, self.host_seconds)):
            raise ValueError("times must be finite")

    def room_beside(self, rows: int, factor: float = 2.0) -> int:
        """How many rows may join a step of `rows` rows before it takes `factor` times as long."""
        sizes = np.arange(1, self.rows[-1] + 1)
        seconds = np.interp(sizes, self.rows, self.row_seconds) + self.host_seconds
        rows = min(rows, self.rows[-1])
        allowed = np.flatnonzero(seconds > factor * seconds[rows - 1])
        beyond = allowed[allowed >= rows]
        if beyond.size:
            return int(beyond[0]) - rows
        return self.rows[-1] - rows


def row_buckets(max_sequences: int, tree_nodes: int) -> tuple[int, ...]:
    """At most `MAX_BUCKETS` numbers of rows from 1 to a full batch of trees, evenly spread by ratio."""
    largest = max_sequences * (tree_nodes + 1)
    steps = MAX_BUCKETS - 1
    return tuple(sorted({round(largest ** (i / steps)) for i in range(MAX_BUCKETS)}))


def measure_profile(
    run: Callable[[int, int], None],
    draft: Callable[[int], None] | None,
    rows: Sequence[int],
    max_sequences: int,
    clock: Callable[[], float],
    budget_s: float = 1.0,
    host_seconds: float = 0.0,
) -> StepProfile:
    """Time `run(rows, sequences)`, a target step of that size, and `draft(sequences)`; both must block.

    Medians of up to 25 repeats after a warm-up, about `budget_s` in all: where one call takes more than its
    share, that one call is the measurement. Rows are spread over as many sequences as in a full batch. Fewer
    rows never cost more: where they seem to, something disturbed them.
    """
    sequences = sorted({1, max(1, max_sequences // 4), max_sequences})
    share = budget_s / (len(rows) + (len(sequences) if draft is not None else 0))
    row_seconds = []
    for count in rows:
        spread = max(1, min(count, max_sequences, count * max_sequences // max(rows)))
        row_seconds.append(_median(lambda n=count, s=spread: run(n, s), clock, share))  # type: ignore[misc]
    for index in reversed(range(len(row_seconds) - 1)):
        row_seconds[index] = min(row_seconds[index : index + 2])
    draft_seconds = [0.0] * len(sequences)
    if draft is not None:
        draft_seconds = [_median(lambda s=s: draft(s), clock, share) for s in sequences]  # type: ignore[misc]
    return StepProfile(tuple(rows), tuple(row_seconds), tuple(sequences), tuple(draft_seconds), host_seconds)


def default_cache_dir() -> Path:
    """`profiles` in the directory where compiled code lies too."""
    return cache_directory() / "profiles"


def load_profile(directory: Path, key: ProfileKey, rows: Sequence[int] | None = None) -> StepProfile | None:
    """The profile kept for this key, None if there is none that can be used: missing, unreadable, for another
    key, or (where `rows` is given) for other buckets."""
    try:
        content: dict[str, Any] = json.loads(_path(directory, key).read_text())
        if content["schema"] != _SCHEMA or content["key"] != asdict(key):
            return None
        sizes = {name: tuple(int(n) for n in content["profile"][name]) for name in ("rows", "sequences")}
        times = {
            name: tuple(float(s) for s in content["profile"][name])
            for name in ("row_seconds", "draft_seconds")
        }
        profile = StepProfile(
            sizes["rows"],
            times["row_seconds"],
            sizes["sequences"],
            times["draft_seconds"],
            float(content["profile"]["host_seconds"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return profile if rows is None or profile.rows == tuple(rows) else None


def save_profile(directory: Path, key: ProfileKey, profile: StepProfile) -> bool:
    """Keep a profile, renamed into place. False where the directory can't be written: it is only a cache."""
    content = {"schema": _SCHEMA, "key": asdict(key), "profile": asdict(profile)}
    path = _path(directory, key)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=directory, prefix=path.stem, suffix=".tmp")
    except OSError:
        return False
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(content, file)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        return False
    return True


def _path(directory: Path, key: ProfileKey) -> Path:
    digest = hashlib.sha256(json.dumps(asdict(key), sort_keys=True).encode()).hexdigest()
    return directory / f"{digest[:24]}.json"


def _median(call: Callable[[], None], clock: Callable[[], float], budget_s: float) -> float:
    """Median seconds of a call."""
    start = clock()
    call()
    first = clock() - start
    seconds: list[float] = []
    while len(seconds) < _REPEATS and clock() - start + first <= budget_s:
        begin = clock()
        call()
        seconds.append(clock() - begin)
    return max(statistics.median(seconds or [first]), 1e-9)
