"""Rows made by one or several processes, with one thread each."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Literal

import torch

from online_draft.bench.ablate.data import AblateData, load_data
from online_draft.bench.ablate.options import AblateOptions
from online_draft.bench.ablate.rows import RowMaker, RowSpec
from online_draft.models.loading import LoadedTarget, load_target

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Event

_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Message:
    """What a worker says: `steps` of a row are done, the row is finished, or `text` is why it can't go on."""

    kind: Literal["steps", "row", "failed"]
    row: str
    steps: int = 0
    text: str = ""


Listener = Callable[[Message], None]


def make_rows(
    options: AblateOptions,
    loaded: LoadedTarget,
    data: AblateData,
    specs: Sequence[RowSpec],
    hear: Listener,
    stop: Callable[[], object],
) -> None:
    """Make these rows, here or in `options.workers` processes; returns early once `stop()` is true.

    Raises RuntimeError when a worker fails; rows that others have begun are kept as far as they are.
    """
    if not specs:
        return
    if options.workers > 1:
        _in_processes(options, specs, hear, stop)
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _work(RowMaker(options, loaded, data), specs, hear, stop)
    finally:
        torch.set_num_threads(before)


def _work(maker: RowMaker, specs: Sequence[RowSpec], hear: Listener, stop: Callable[[], object]) -> None:
    for spec in specs:
        if stop() or not _one(maker, spec, hear, stop):
            return


def _one(maker: RowMaker, spec: RowSpec, hear: Listener, stop: Callable[[], object]) -> bool:
    row = maker.make(spec, lambda steps: hear(Message("steps", spec.name, steps)), stop)
    if row is not None:
        hear(Message("row", spec.name))
    return row is not None


def _in_processes(
    options: AblateOptions, specs: Sequence[RowSpec], hear: Listener, stop: Callable[[], object]
) -> None:
    context = multiprocessing.get_context("spawn")
    tasks: Queue[RowSpec | None] = context.Queue()
    said: Queue[Message] = context.Queue()
    ended = context.Event()
    count = min(options.workers, len(specs))
    for spec in (*specs, *[None] * count):
        tasks.put(spec)
    workers = [
        context.Process(target=_process, args=(options, tasks, said, ended), daemon=True)
        for _ in range(count)
    ]
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        for worker in workers:
            worker.start()
    finally:
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = threads
    try:
        _listen(workers, said, hear, lambda: ended.set() if stop() else None)
    finally:
        ended.set()
        for worker in workers:
            worker.join()


def _listen(
    workers: Sequence[SpawnProcess], said: Queue[Message], hear: Listener, look: Callable[[], None]
) -> None:
    """Pass on what workers say until all have ended and nothing is left unheard."""
    while True:
        alive = any(worker.is_alive() for worker in workers)
        look()
        try:
            message = said.get(timeout=_LOOK_EVERY_S if alive else 0.05)
        except queue.Empty:
            if not alive:
                break
            continue
        if message.kind == "failed":
            raise RuntimeError(f"a worker failed at {message.row}:\n{message.text}")
        hear(message)
    lost = [worker.exitcode for worker in workers if worker.exitcode]
    if lost:
        raise RuntimeError(f"a worker ended with exit code {lost[0]}")


def _process(
    options: AblateOptions, tasks: Queue[RowSpec | None], said: Queue[Message], ended: Event
) -> None:
    """A worker's life. Ctrl-C reaches all processes of a terminal; the first one tells the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    at = "the start"
    try:
        loaded = load_target(options.target)
        data = load_data(options, loaded, lambda done, total: None, ended.is_set)
        if data is None:
            return
        maker = RowMaker(options, loaded, data)
        while not ended.is_set():
            spec = tasks.get()
            if spec is None:
                return
            at = spec.name
            _one(maker, spec, said.put, ended.is_set)
    except Exception:
        said.put(Message("failed", at, text=traceback.format_exc()))
    finally:
        tasks.cancel_join_thread()
