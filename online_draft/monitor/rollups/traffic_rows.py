"""Traffic counts as rows of integers: quick to add, small in Redis.

Shapes: C cells, W columns of a row, U columns in use.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from online_draft.core import SCHEMA_VERSION, SpeculationCounts
from online_draft.errors import StoreError
from online_draft.monitor.rollups.drift_counts import BY_DEPTH, TOTALS, DriftCounts
from online_draft.monitor.rollups.histogram import BOUNDS_US
from online_draft.monitor.rollups.traffic_counts import ERROR_KINDS, Cell, TrafficCounts
from online_draft.store.packing import pack, unpack

Row = NDArray[np.int64]
"""[W]"""

DEPTHS, DRIFT_DEPTHS = 32, 16
"""Depths with a column of their own, of what was served and of replays; the last stands for all below."""

# Columns are stored by number: further ones go behind the last.
_TOTALS = 7
_LENGTHS = (DEPTHS, DEPTHS, DEPTHS, len(BOUNDS_US) + 1, len(BOUNDS_US) + 1)
_ENDS = tuple(_TOTALS + sum(_LENGTHS[: number + 1]) for number in range(len(_LENGTHS)))
_LISTS = tuple(slice(end - length, end) for end, length in zip(_ENDS, _LENGTHS, strict=True))
_ERRORS = slice(_ENDS[-1], _ENDS[-1] + len(ERROR_KINDS))
_DRIFT_TOTALS = slice(_ERRORS.stop, _ERRORS.stop + len(TOTALS))
_DRIFT_LISTS = tuple(
    slice(_DRIFT_TOTALS.stop + number * DRIFT_DEPTHS, _DRIFT_TOTALS.stop + (number + 1) * DRIFT_DEPTHS)
    for number in range(len(BY_DEPTH))
)
_WIDTH = _DRIFT_LISTS[-1].stop
_TYPES = ("<u1", "<u2", "<u4", "<i8")


def empty_row() -> Row:
    """Nothing counted."""
    return np.zeros(_WIDTH, np.int64)


def to_row(counts: TrafficCounts) -> Row:
    """A row of its own."""
    row, speculation = empty_row(), counts.speculation
    row[:_TOTALS] = (
        counts.requests, counts.prompt_tokens, counts.tokens,
        speculation.steps, speculation.committed, speculation.drafted, speculation.ngram_drafted,
    )  # fmt: skip
    by_depth = (speculation.tried, speculation.accepted, speculation.ngram_accepted)
    for where, values in zip(_LISTS, (*by_depth, counts.first_token, counts.inter_token), strict=True):
        _enter(row, where, values)
    row[_ERRORS] = [counts.errors.get(kind, 0) for kind in ERROR_KINDS]
    if counts.drift.samples:
        row[_DRIFT_TOTALS] = [getattr(counts.drift, name) for name in TOTALS]
        for where, name in zip(_DRIFT_LISTS, BY_DEPTH, strict=True):
            _enter(row, where, getattr(counts.drift, name))
    return row


def from_row(row: Row) -> TrafficCounts:
    """Inverse of `to_row`; lists end with their last entry that isn't 0, hits with tries."""
    values: list[int] = row.tolist()
    requests, prompt_tokens, tokens, steps, committed, drafted, ngram_drafted = values[:_TOTALS]
    tried, accepted, ngram_accepted, first_token, inter_token = [_trimmed(values[where]) for where in _LISTS]
    accepted += [0] * (len(tried) - len(accepted))
    speculation = SpeculationCounts(steps, committed, drafted, tried, accepted, ngram_drafted, ngram_accepted)
    errors = {kind: count for kind, count in zip(ERROR_KINDS, values[_ERRORS], strict=True) if count}
    return TrafficCounts(
        requests, prompt_tokens, tokens, speculation, first_token, inter_token, errors, _drift(values)
    )


def pack_rows(cells: Mapping[Cell, Row]) -> bytes:
    """One replica's counts of one bucket, compressed: of the columns only those in use, in few bytes each."""
    rows_CW = np.array(list(cells.values()), np.int64).reshape(len(cells), _WIDTH)
    columns_U = np.flatnonzero(rows_CW.max(0, initial=0))
    top = int(rows_CW.max(initial=0))
    kind = next(kind for kind in _TYPES if top <= np.iinfo(kind).max)
    names = [name for cell in cells for name in cell]
    used = columns_U.astype("<u2").tobytes()
    return zlib.compress(
        pack([SCHEMA_VERSION, names, used, kind, rows_CW[:, columns_U].astype(kind).tobytes()]), 1
    )


def unpack_rows(data: bytes) -> Iterator[tuple[Cell, Row]]:
    """Inverse of `pack_rows`; the rows may be changed. StoreError when it isn't readable."""
    try:
        schema, names, used, kind, values = cast(Any, unpack(zlib.decompress(data), "roll-up"))
        if schema != SCHEMA_VERSION or kind not in _TYPES:
            raise StoreError(f"roll-up: schema {schema}, type {kind} are not known")
        columns_U = np.frombuffer(used, "<u2")
        rows_CW = np.zeros((len(names) // 2, _WIDTH), np.int64)
        rows_CW[:, columns_U] = np.frombuffer(values, kind).reshape(len(rows_CW), len(columns_U))
        cells = list(zip(map(str, names[::2]), map(str, names[1::2]), strict=True))
    except (zlib.error, ValueError, TypeError, IndexError) as error:
        raise StoreError(f"roll-up is not readable: {error}") from error
    return zip(cells, rows_CW, strict=True)


def _enter(row: Row, where: slice, values: list[int]) -> None:
    """A list into its columns."""
    space = where.stop - where.start
    row[where.start : where.start + min(space, len(values))] = values[:space]
    row[where.stop - 1] += sum(values[space:])


def _drift(values: list[int]) -> DriftCounts:
    if not values[_DRIFT_TOTALS.start]:
        return DriftCounts()
    counts = DriftCounts()
    for name, value in zip(TOTALS, values[_DRIFT_TOTALS], strict=True):
        setattr(counts, name, value)
    for name, where in zip(BY_DEPTH, _DRIFT_LISTS, strict=True):
        setattr(counts, name, _trimmed(values[where]))
    counts.hits += [0] * (len(counts.tried) - len(counts.hits))
    counts.baseline_hits += [0] * (len(counts.baseline_tried) - len(counts.baseline_hits))
    return counts


def _trimmed(values: list[int]) -> list[int]:
    while values and not values[-1]:
        values.pop()
    return values
