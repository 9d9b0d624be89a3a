"""What ingress and replica say to each other. Standard library and core only: both sides import it."""

from __future__ import annotations

from dataclasses import dataclass

from online_draft.core import GenerationRequest, StepOutput


@dataclass(frozen=True, slots=True)
class Order:
    """A request on its way to an engine. `lengths` are those of the steps that gave `request.emitted`;
    with `live` somebody reads along, else its steps may come together."""

    request: GenerationRequest
    lengths: tuple[int, ...] = ()
    live: bool = True


@dataclass(frozen=True, slots=True)
class Uplink:
    """One call up: requests to run, requests to forget, and how many messages down were read so far."""

    orders: tuple[Order, ...] = ()
    cancelled: tuple[str, ...] = ()
    read: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """An engine didn't take a request in, or lost it."""

    request_id: str
    error: Exception


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """Requests that run and that wait, of how many that may do either; `kv` is the share of KV blocks in
    use, from 0 to 1, `target` the fingerprint that it serves."""

    running: int = 0
    waiting: int = 0
    slots: int = 1
    queue: int = 0
    kv: float = 0.0
    target: str = ""

    @property
    def pressure(self) -> float:
        """1 where all slots or all KV blocks are taken, more where requests wait."""
        return max((self.running + self.waiting) / self.slots, self.kv)


@dataclass(frozen=True, slots=True)
class Downlink:
    """One message down: what the engine had for this ingress since the last one. Behind the `last` message
    of a stream the channel goes on in another."""

    items: tuple[StepOutput | Refusal, ...]
    load: ReplicaLoad
    last: bool = False
