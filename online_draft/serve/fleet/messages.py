"""What ingress and replica say to each other. Standard library and core only: both sides import it."""

from __future__ import annotations

from dataclasses import dataclass

from online_draft.core import GenerationRequest, StepOutput
from online_draft.errors import CapacityError, EngineDead, OnlineDraftError, RequestError


@dataclass(frozen=True, slots=True)
class Address:
    """Where a replica's channel is reached; `token` opens it, once."""

    host: str
    port: int
    token: str


@dataclass(frozen=True, slots=True)
class Order:
    """A request on its way to an engine. `lengths` are those of the steps that gave `request.emitted`;
    with `live` somebody reads along, else its steps may come together."""

    request: GenerationRequest
    lengths: tuple[int, ...] = ()
    live: bool = True


@dataclass(frozen=True, slots=True)
class Uplink:
    """One message up: requests to run and requests to forget. It is answered by a message down."""

    orders: tuple[Order, ...] = ()
    cancelled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """An engine didn't take a request in, or lost it: the error as plain data."""

    request_id: str
    kind: str
    message: str
    param: str | None = None
    code: str | None = None
    retry_after_s: int = 1

    @classmethod
    def of(cls, request_id: str, error: Exception) -> Refusal:
        """A request's error."""
        if isinstance(error, CapacityError):
            return cls(request_id, "capacity", str(error), retry_after_s=error.retry_after_s)
        if isinstance(error, RequestError):
            return cls(request_id, "request", str(error), error.param, error.code)
        return cls(request_id, "dead" if isinstance(error, EngineDead) else "other", str(error))

    @property
    def error(self) -> OnlineDraftError:
        """The error again."""
        match self.kind:
            case "capacity":
                return CapacityError(self.message, self.retry_after_s)
            case "request":
                return RequestError(self.message, self.param, self.code)
            case "dead":
                return EngineDead(self.message)
        return OnlineDraftError(self.message)


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
    """One message down: what the engine had for this ingress since the last one. A refusal is the last that
    is said of its request."""

    steps: tuple[StepOutput, ...]
    refusals: tuple[Refusal, ...]
    load: ReplicaLoad
