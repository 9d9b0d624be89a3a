"""What is news among alarms and decisions: each is told once, also by a control that was started anew."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from online_draft.control.alarms import Alarm
from online_draft.control.memory import Memory
from online_draft.control.webhooks.config import WebhookConfig
from online_draft.control.webhooks.courier import Courier
from online_draft.control.webhooks.message import Event, Message, as_json, as_slack
from online_draft.errors import StoreError
from online_draft.registry.journal import Decision

logger = logging.getLogger(__name__)

CLEARED_AFTER_S = 30.0
"""An alarm that was gone for so long is told again when it comes back."""
_BLIND = ("counts_unreadable", "nothing_decided")
"""While one of these is raised, others that are gone may just not be seen."""


@dataclass(slots=True)
class _Raised:
    """An alarm that was told, and when it was there last."""

    alarm: Alarm
    seen_ms: int


class Herald:
    """Hands news to couriers: alarms when they are raised and when they cleared, rollbacks when they are
    decided. For one thread; blocks for Redis, never for a receiver.

    What was told and what couriers haven't delivered is kept in Redis. While that is away, news are told all
    the same, so that a control that starts then may tell something twice.
    """

    def __init__(
        self,
        config: WebhookConfig,
        memory: Memory,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        couriers: Sequence[Courier] | None = None,
    ) -> None:
        self._model = config.model
        self._memory = memory
        self._now_ms = now_ms
        self._couriers = _couriers(config, now_ms) if couriers is None else tuple(couriers)
        self._raised: dict[tuple[str, str], _Raised] = {}
        self._target, self._seq = "", 0
        self._since_ms = now_ms()
        self._recalled = False

    def tell(self, target: str, alarms: Sequence[Alarm], decisions: Sequence[Decision]) -> None:
        """Tell what is news. `alarms` are all that are raised now, `decisions` the journal of `target`."""
        now = self._now_ms()
        if not self._recalled:
            self._recall(now)
        for alarm in alarms:
            known = self._raised.get((alarm.code, alarm.about))
            if known is None:
                self._raised[alarm.code, alarm.about] = _Raised(alarm, now)
                self._tell_of("raised", alarm, now)
            else:
                known.seen_ms = now
        blind = any(alarm.code in _BLIND for alarm in alarms)
        for key, raised in list(self._raised.items()):
            if blind:
                raised.seen_ms = now
            elif now - raised.seen_ms > CLEARED_AFTER_S * 1000:
                del self._raised[key]
                self._tell_of("cleared", raised.alarm, now)
        self._tell_rollbacks(target, decisions)
        self._since_ms = now
        if self._recalled:
            self._keep()

    def status(self) -> dict[str, Any]:
        """By receiver: messages by what became of them."""
        return {courier.name: courier.status() for courier in self._couriers}

    def close(self) -> None:
        """End the couriers; what they had left is delivered after the next start."""
        for courier in self._couriers:
            courier.close()

    def _tell_rollbacks(self, target: str, decisions: Sequence[Decision]) -> None:
        """Those behind the last one that was told; of a journal that wasn't looked at before, new ones."""
        for decision in decisions:
            known = decision.seq <= self._seq if target == self._target else decision.at_ms < self._since_ms
            if decision.kind == "roll_back" and not known:
                reason = f"by {decision.actor}: {decision.reason}"
                at_ms = decision.at_ms
                self._tell("decided", "rollback", decision.version or "no version", reason, at_ms, at_ms)
        self._target, self._seq = target, decisions[-1].seq if decisions else 0

    def _tell_of(self, event: Event, alarm: Alarm, at_ms: int) -> None:
        self._tell(event, alarm.code, alarm.about, alarm.message, alarm.since_ms, at_ms)

    def _tell(self, event: Event, code: str, about: str, text: str, since_ms: int, at_ms: int) -> None:
        message = Message.new(event, self._model, code, about, text, since_ms, at_ms)
        for courier in self._couriers:
            courier.put(message)

    def _recall(self, now: int) -> None:
        try:
            kept = self._memory.recall()
        except StoreError as error:
            logger.debug("what was told can't be recalled: %s", error)
            return
        self._recalled = True
        try:
            for raw in kept.get("raised", []):
                alarm = Alarm(**raw)
                self._raised.setdefault((alarm.code, alarm.about), _Raised(alarm, now))
            for courier in self._couriers:
                for raw in kept.get("unsent", {}).get(courier.name, []):
                    courier.put(Message.from_dict(raw))
            if not self._target:
                self._target, self._seq = str(kept.get("target", "")), int(kept.get("seq", 0))
        except (TypeError, ValueError) as error:
            logger.warning("what was told can't be read: %s", error)

    def _keep(self) -> None:
        state = {
            "target": self._target,
            "seq": self._seq,
            "raised": [asdict(raised.alarm) for raised in self._raised.values()],
            "unsent": {
                courier.name: [asdict(message) for message in courier.waiting] for courier in self._couriers
            },
        }
        try:
            self._memory.keep(state)
        except StoreError as error:
            logger.debug("what was told can't be kept: %s", error)


def _couriers(config: WebhookConfig, now_ms: Callable[[], int]) -> tuple[Courier, ...]:
    made = []
    if config.url:
        made.append(
            Courier(
                "json", config.url, as_json, config.secret, config.timeout_s, config.give_up_s, now_ms=now_ms
            )
        )
    if config.slack_url:
        made.append(
            Courier(
                "slack", config.slack_url, as_slack, None, config.timeout_s, config.give_up_s, now_ms=now_ms
            )
        )
    return tuple(made)
