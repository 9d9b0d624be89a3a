"""What was written before, by request and by tenant, and what it suggests to write next."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from online_draft.models.ngram.config import NgramConfig
from online_draft.models.ngram.index import BEHIND, EDGE, ContextIndex
from online_draft.models.ngram.merge import merge
from online_draft.models.ngram.tree import REQUEST, TENANT, NgramTree

_match = itemgetter(0)
_AT_ONCE = 256
"""Tokens of a tenant that one proposal enters into its index at most, but for the last text's."""


@dataclass(frozen=True, slots=True)
class NgramStats:
    """What is held now: open requests, their tokens, tenants, theirs, bytes (about); evictions since the
    start, of whole tenants and of single tokens."""

    requests: int
    request_tokens: int
    tenants: int
    tenant_tokens: int
    bytes: int
    evicted_tenants: int
    evicted_tokens: int


@dataclass(slots=True)
class _Request:
    tenant: str
    index: ContextIndex
    generated: int = 0
    erased: bool = False


@dataclass(slots=True)
class _Tenant:
    """`waiting` are texts that the index doesn't know yet, and how much of each is only context."""

    index: ContextIndex
    waiting: deque[tuple[list[int], int]] = field(default_factory=deque)
    waiting_tokens: int = 0


class NgramMemory:
    """Proposes what followed where a request's end occurred before, in itself or in its tenant's outputs.

    A request sees its own tokens and its own tenant's outputs, never another tenant's. Token ids are from 0
    to below 2^24. Nothing blocks; not thread-safe. Time of a call depends on matches, not on what is held.
    """

    def __init__(self, config: NgramConfig | None = None) -> None:
        self.config = config or NgramConfig()
        self._requests: dict[Hashable, _Request] = {}
        self._tenants: OrderedDict[str, _Tenant] = OrderedDict()
        self._evicted_tenants = 0
        self._evicted_tokens = 0

    def open(self, key: Hashable, tenant: str, tokens: Sequence[int]) -> None:
        """A request begins with this prompt. Raises ValueError when the key is open already.

        Output that it has already (resumed, preempted) follows by `extend`.
        """
        if key in self._requests:
            raise ValueError(f"n-gram memory: request {key!r} is open already")
        request = _Request(tenant, self._new_index(self.config.request_tokens, REQUEST))
        request.index.extend(tokens)
        self._requests[key] = request
        if tenant in self._tenants:
            self._tenants.move_to_end(tenant)

    def extend(self, key: Hashable, tokens: Sequence[int]) -> None:
        """The request goes on with these output tokens. Raises KeyError when it isn't open."""
        request = self._request(key)
        request.generated += len(tokens)
        request.index.extend(tokens)

    def close(self, key: Hashable, keep: bool) -> None:
        """The request ends; with `keep` its tenant remembers the output, else nothing of it remains.

        Of the prompt only the last `max_match` tokens are kept: as context, never proposed. Raises KeyError
        when the request isn't open.
        """
        request = self._request(key)
        del self._requests[key]
        self._evicted_tokens += request.index.evicted
        if keep and not request.erased:
            self.remember(request.tenant, request.index.tokens, request.generated)

    def remember(self, tenant: str, tokens: Sequence[int], generated: int) -> None:
        """A text whose last `generated` tokens are output ended; the tenant's later requests may find them.

        They are entered when the tenant is next looked up: a text that nobody asks for costs nothing.
        """
        if generated <= 0:
            return
        text = list(tokens[-min(generated + self.config.max_match, self.config.tenant_tokens) :])
        if text[0] == EDGE:
            text = text[1:]
        known = self._tenants.get(tenant)
        if known is None:
            index = self._new_index(self.config.tenant_tokens, TENANT)
            known = self._tenants[tenant] = _Tenant(index)
        self._tenants.move_to_end(tenant)
        known.waiting.append((text, max(0, len(text) - generated)))
        known.waiting_tokens += len(text)
        while known.waiting_tokens > self.config.tenant_tokens:
            self._evicted_tokens += len(known.waiting[0][0])
            known.waiting_tokens -= len(known.waiting.popleft()[0])
        if len(self._tenants) > self.config.max_tenants:
            self._drop(next(iter(self._tenants)))
            self._evicted_tenants += 1

    def propose(
        self, key: Hashable, nodes: int, depth: int | None = None, least: int | None = None
    ) -> NgramTree:
        """What may follow the request's last token: at most `nodes` nodes, at most `depth` deep.

        Only behind matches of at least `least` tokens, by default the configuration's `min_match`. Changes
        nothing that can be told from outside. Raises KeyError when the request isn't open.
        """
        request, config = self._request(key), self.config
        reach = config.depth if depth is None else min(depth, config.depth)
        if nodes < 1 or reach < 1:
            return NgramTree([], [], [], [])
        wanted, least = config.occurrences, max(least or 1, config.min_match)
        text = request.index.tokens
        found = request.index.find(text, least, wanted, reach)
        tenant = self._tenants.get(request.tenant)
        if tenant is not None:
            index = tenant.index
            if tenant.waiting:
                _catch_up(tenant)
            if found:
                # What could not get among the wanted ones isn't looked for.
                least = max(least, found[-1][0] + 1 if len(found) == wanted else found[0][0] - BEHIND)
            if least <= config.max_match:
                others = index.find(text, least, wanted, reach)
                if others:
                    found = sorted(found + others, key=_match, reverse=True)[:wanted]
        return merge(found, nodes, config.least_worth)

    def forget(self, tenant: str) -> None:
        """Erase what is remembered of a tenant; its open requests will leave nothing either. Idempotent."""
        if tenant in self._tenants:
            self._drop(tenant)
        for request in self._requests.values():
            request.erased |= request.tenant == tenant

    def stats(self) -> NgramStats:
        """Sizes and evictions. Takes time in proportion to open requests and tenants."""
        requests = [request.index for request in self._requests.values()]
        tenants = [tenant.index for tenant in self._tenants.values()]
        waiting = sum(tenant.waiting_tokens for tenant in self._tenants.values())
        return NgramStats(
            requests=len(requests),
            request_tokens=sum(len(index.tokens) for index in requests),
            tenants=len(tenants),
            tenant_tokens=sum(len(index.tokens) for index in tenants) + waiting,
            bytes=sum(index.bytes for index in (*requests, *tenants)) + 8 * waiting,
            evicted_tenants=self._evicted_tenants,
            evicted_tokens=self._evicted_tokens + sum(index.evicted for index in (*requests, *tenants)),
        )

    def check_integrity(self) -> None:
        """Assert that all indices are sound and within their bounds."""
        assert len(self._tenants) <= self.config.max_tenants, "more tenants are remembered than allowed"
        for request in self._requests.values():
            request.index.check_integrity()
        for tenant in self._tenants.values():
            tenant.index.check_integrity()
            waiting = sum(len(text) for text, _ in tenant.waiting)
            assert waiting == tenant.waiting_tokens <= self.config.tenant_tokens, "waiting texts don't add up"

    def _new_index(self, capacity: int, source: int) -> ContextIndex:
        return ContextIndex(self.config.max_match, self.config.occurrences, capacity, source)

    def _request(self, key: Hashable) -> _Request:
        try:
            return self._requests[key]
        except KeyError:
            raise KeyError(f"n-gram memory: request {key!r} is not open") from None

    def _drop(self, tenant: str) -> None:
        self._evicted_tokens += self._tenants.pop(tenant).index.evicted


def _catch_up(tenant: _Tenant) -> None:
    """Enter waiting texts into the index, oldest first."""
    entered = 0
    while tenant.waiting and entered < _AT_ONCE:
        text, context = tenant.waiting.popleft()
        tenant.index.extend(text, context)
        tenant.index.end()
        entered += len(text)
    tenant.waiting_tokens -= entered
