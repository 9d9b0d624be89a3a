"""The bridge between asyncio and the engine's own thread."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

from online_draft.core import GenerationRequest, StepOutput
from online_draft.errors import EngineDead, OnlineDraftError, RequestError
from online_draft.monitor.rollups.traffic_meter import TrafficMeter
from online_draft.serve.sinks import Handed, RequestSink, Sink, hand_over
from online_draft.serve.spare import SpareWork

logger = logging.getLogger(__name__)

T = TypeVar("T")


class EngineLike(Protocol):
    """What the thread needs of an engine."""

    @property
    def has_work(self) -> bool: ...
    def add(self, request: GenerationRequest) -> None: ...
    def cancel(self, request_id: str) -> None: ...
    def step(self) -> list[StepOutput]: ...
    def load(self) -> tuple[int, int]: ...


E = TypeVar("E", bound=EngineLike)


class EngineThread(Generic[E]):
    """Owns the thread that owns the engine: requests in, step outputs out, changes between two steps.

    The engine is built on its thread by `build`. When a step raises, the requests in flight end with an
    error output and the engine is built anew; after `max_rebuilds` failures within a minute the thread is
    dead and `check` raises. `meter` is told, on this thread, what becomes of each request; `target` says
    after each step which one it ran. Every public method may be called from any thread.
    """

    def __init__(
        self,
        build: Callable[[], E],
        *,
        on_busy: Callable[[], None] = lambda: None,
        hang_after_s: float = 30.0,
        max_rebuilds: int = 3,
        meter: TrafficMeter | None = None,
        target: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._build = build
        self._on_busy = on_busy
        self._hang_after_s = hang_after_s
        self._max_rebuilds = max_rebuilds
        self._meter = meter
        self._target = target
        self._wake = threading.Condition()
        self._inbox: deque[Callable[[E], None]] = deque()
        self._sinks: dict[str, Sink] = {}
        self._load = (0, 0)
        self._spare: SpareWork | None = None
        self._failures: deque[float] = deque()
        self._dead: str | None = None
        self._closing = False
        self._busy_since: float | None = time.monotonic()
        self._built: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self, timeout_s: float | None = None) -> None:
        """Start the thread and block until the engine is built; raises what building raised."""
        self._thread.start()
        self._built.result(timeout_s)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[StepOutput, None]:
        """Run a request; one item per step, the last one has `finish_reason`.

        Raises RequestError or CapacityError before the first item, EngineDead when the thread is gone.
        Closing the generator cancels the request before the engine's next step.
        """
        stream = RequestSink(asyncio.get_running_loop())
        finished = False
        self.submit(request, stream)
        try:
            while not finished:
                item = await stream.items.get()
                if isinstance(item, Exception):
                    finished = True
                    raise item
                finished = item.finish_reason is not None
                yield item
        finally:
            if not finished:
                self.cancel(request.request_id, stream)

    def submit(self, request: GenerationRequest, sink: Sink) -> None:
        """Run a request whose outputs `sink` takes; a refusal is its only item. EngineDead at once."""
        asked_at_s = time.perf_counter()
        self._submit(lambda engine: self._add(engine, request, sink, asked_at_s))
        if len(self._sinks) == 0:
            self._on_busy()

    def cancel(self, request_id: str, sink: Sink) -> None:
        """Forget this sink's request before the engine's next step. Idempotent."""
        self._submit_quietly(lambda engine: self._cancel(engine, request_id, sink))

    def call(self, change: Callable[[E], T]) -> Future[T]:
        """Run `change(engine)` on the engine's thread between two steps; the future has its result."""
        future: Future[T] = Future()

        def run(engine: E) -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(change(engine))
                except Exception as error:
                    future.set_exception(error)

        self._submit(run)
        return future

    def when_idle(self, work: SpareWork) -> None:
        """Work while there is no request, a slice at a time; what begins to wait for the thread waits for one
        slice. Dropped at once when a request comes, or now if there are some or other such work."""
        with self._wake:
            free = self._dead is None and not (self._closing or self._spare or self._sinks or self._inbox)
            if free:
                self._spare = work
                self._wake.notify()
        if not free:
            work.drop()

    def excuse(self) -> None:
        """The step under way may take as long as it needs. By the engine's thread."""
        self._busy_since = None

    @property
    def entered(self) -> bool:
        """Whether the caller is the engine's thread itself, which `call` would wait for in vain."""
        return threading.current_thread() is self._thread

    def load(self) -> tuple[int, int]:
        """(running, waiting) requests as of the last step, those not yet seen by the engine included."""
        running, waiting = self._load
        return running, waiting + len(self._inbox)

    def check(self) -> None:
        """Raise EngineDead when the thread is dead or one step takes longer than `hang_after_s`."""
        if self._dead is not None:
            raise EngineDead(self._dead)
        busy_since = self._busy_since
        if busy_since is not None and time.monotonic() - busy_since > self._hang_after_s:
            raise EngineDead(f"the engine thread has been in one step for over {self._hang_after_s:.0f} s")

    def close(self, timeout_s: float = 10.0) -> None:
        """End the thread after the step it is in; requests in flight end with an error. Idempotent."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _submit(self, item: Callable[[E], None]) -> None:
        with self._wake:
            if self._dead is not None or self._closing:
                raise EngineDead(self._dead or "the engine is shutting down")
            self._inbox.append(item)
            self._wake.notify()

    def _submit_quietly(self, item: Callable[[E], None]) -> None:
        try:
            self._submit(item)
        except EngineDead:
            logger.debug("nothing to cancel: the engine is gone")

    # Everything below runs on the engine's thread.

    def _run(self) -> None:
        try:
            engine = self._build()
        except Exception as error:
            self._die(f"the engine could not be built: {error}")
            self._built.set_exception(error)
            return
        self._busy_since = None
        self._built.set_result(None)
        while self._wait(engine):
            self._busy_since = time.monotonic()
            try:
                self._drain(engine)
                if engine.has_work:
                    self._drop_spare()
                    self._deliver(engine.step())
                else:
                    self._advance_spare()
                self._load = engine.load()
            except Exception as error:
                logger.exception("the engine failed in a step")
                rebuilt = self._rebuild(error)
                if rebuilt is None:
                    return
                engine = rebuilt
            finally:
                self._busy_since = None
        self._die("the engine is shutting down")

    def _wait(self, engine: E) -> bool:
        with self._wake:
            while not (self._inbox or self._closing or self._spare or engine.has_work):
                self._wake.wait()
            return not self._closing

    def _drain(self, engine: E) -> None:
        while self._inbox:
            self._inbox.popleft()(engine)

    def _advance_spare(self) -> None:
        spare = self._spare
        if spare is not None and spare.advance():
            self._spare = None
            spare.finish()

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.drop()

    def _add(self, engine: E, request: GenerationRequest, sink: Sink, asked_at_s: float) -> None:
        name = request.request_id
        if name in self._sinks:
            hand_over([(sink, name, RequestError(f"request id {name!r} is running already", "request_id"))])
            return
        self._sinks[name] = sink
        if self._meter is not None:
            self._meter.begin(request, asked_at_s)
        try:
            engine.add(request)
        except OnlineDraftError as error:
            if self._meter is not None:
                self._meter.end(name, error)
            del self._sinks[name]
            hand_over([(sink, name, error)])

    def _cancel(self, engine: E, request_id: str, sink: Sink) -> None:
        if self._sinks.get(request_id) is sink:
            del self._sinks[request_id]
            if self._meter is not None:
                self._meter.end(request_id)
            engine.cancel(request_id)

    def _deliver(self, outputs: Iterable[StepOutput]) -> None:
        items: list[Handed] = []
        for output in outputs:
            sink = self._sinks.get(output.request_id)
            if sink is not None:
                if output.finish_reason is not None:
                    output = replace(output, target=self._target())
                items.append((sink, output.request_id, output))
                if self._meter is not None:
                    self._meter.step(output)
                if output.finish_reason is not None:
                    del self._sinks[output.request_id]
        hand_over(items)

    def _fail_streams(self, reason: str) -> None:
        outputs = [StepOutput(request_id, (), "", "error", error=reason) for request_id in self._sinks]
        self._deliver(outputs)

    def _rebuild(self, cause: Exception) -> E | None:
        self._fail_streams(f"the engine failed: {cause}")
        now = time.monotonic()
        self._failures.append(now)
        while now - self._failures[0] > 60.0:
            self._failures.popleft()
        if len(self._failures) > self._max_rebuilds:
            self._die(f"the engine failed {len(self._failures)} times within a minute, last: {cause}")
            return None
        self._busy_since = now
        try:
            return self._build()
        except Exception as error:
            logger.exception("the engine could not be rebuilt")
            self._die(f"the engine could not be rebuilt: {error}")
            return None

    def _die(self, reason: str) -> None:
        """Refuse what comes from now on and answer what waits."""
        with self._wake:
            self._dead = reason
            waiting = list(self._inbox)
            self._inbox.clear()
        self._load = (0, 0)
        self._fail_streams(reason)
        self._drop_spare()
        for item in waiting:
            item(_DeadEngine(reason))  # type: ignore[arg-type]


class _DeadEngine:
    """Stands in for the engine when the thread is dead: whoever still waits is told why."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> Any:
        raise EngineDead(self._reason)
