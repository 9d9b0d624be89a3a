"""Synthetic drift samples: one record after the other, with a change in what they say."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from online_draft.monitor.drift.samples import DriftSample, Hits
from online_draft.monitor.drift.verdict import VerdictKind

HEADS = 5
_PROMOTED_EVERY = 150


@dataclass(frozen=True, slots=True)
class Scenario:
    """What changes, in logits of acceptance and as a factor of entropy, over `over` samples, and what it is.

    `promoted`: another version serves from the change on. Without a change of the drafter versions follow
    one another all the same, each as good as the one before.
    """

    name: str
    truth: VerdictKind
    champion: float = 0.0
    baseline: float = 0.0
    entropy: float = 1.0
    over: int = 1
    promoted: bool = False


SCENARIOS = (
    Scenario("nothing changes", "none"),
    Scenario("a better drafter", "none", champion=0.8, promoted=True),
    Scenario("harder traffic", "harder", champion=-0.8, baseline=-0.7, entropy=1.35),
    Scenario("harder traffic, slowly", "harder", champion=-0.8, baseline=-0.7, entropy=1.35, over=300),
    Scenario("another domain", "stale", champion=-1.0, baseline=-0.5),
    Scenario("another domain, slowly", "stale", champion=-1.0, baseline=-0.5, over=300),
    Scenario("another domain, known to the baseline", "stale", champion=-0.9),
    Scenario("a worse drafter", "regressed", champion=-0.7, promoted=True),
    Scenario("a slightly worse drafter", "regressed", champion=-0.4, promoted=True),
)


def samples(scenario: Scenario, seed: int, before: int, after: int) -> Iterator[DriftSample]:
    """`before` samples, then `after` of the scenario. Records differ in length and in how hard they are for
    both drafters and the target; a promotion comes every 150 samples, and not in the 40 around the change,
    unless it is the change."""
    rng = random.Random(f"{scenario.name} {seed}")
    version = 0
    for number in range(before + after):
        since = number - before
        part = min(1.0, max(0.0, (since + 1) / scenario.over))
        if number % _PROMOTED_EVERY == 0 and not -40 < since < 40:
            version += 1
        if scenario.promoted and since == 0:
            version += 1
        hard = rng.gauss(0.0, 0.5)
        steps = rng.randint(8, 60)
        positions = steps * 3
        nats = 1.2 * math.exp(0.3 * hard + rng.gauss(0.0, 0.2)) * (1 + part * (scenario.entropy - 1))
        yield DriftSample(
            str(number),
            f"v{version}",
            _hits(rng, 1.0 - hard + part * scenario.champion, steps),
            _hits(rng, 0.5 - hard + part * scenario.baseline, steps),
            int(nats * positions * 1e6),
            positions,
        )


def _hits(rng: random.Random, logit: float, steps: int) -> Hits:
    hits, own = [], rng.gauss(0.0, 0.2)
    for depth in range(HEADS):
        rate = 1 / (1 + math.exp(-(logit + own - 0.45 * depth)))
        hits.append(sum(rng.random() < rate for _ in range(steps)))
    return Hits(tuple(hits), (steps,) * HEADS)
