"""A service that isn't there: counts, samples, statuses, records and decisions as a real one leaves them."""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import redis

from online_draft.buffer.records import encode
from online_draft.core import SCHEMA_VERSION, Interaction, SpeculationCounts
from online_draft.monitor.drift.samples import DriftSample, Hits
from online_draft.monitor.drift.state import DriftState, publish_drift_states
from online_draft.monitor.learner_history import RESOLUTIONS as HISTORY
from online_draft.monitor.learner_history import LearnerHistory
from online_draft.monitor.load import Load, publish_load
from online_draft.monitor.recent import RecentRequest, most_notable
from online_draft.monitor.rollups.board import RollupBoard
from online_draft.monitor.rollups.drift_counts import DriftCounts
from online_draft.monitor.rollups.publisher import RollupPublisher
from online_draft.monitor.rollups.resolutions import RESOLUTIONS
from online_draft.monitor.rollups.traffic_counts import LIVE, Cell, TrafficCounts
from online_draft.monitor.rollups.traffic_rows import Row, pack_rows, to_row
from online_draft.registry.manifest import Provenance
from online_draft.serve.admin.desk import AdminDesk
from online_draft.store import RedisKeys
from online_draft.store.packing import pack

TARGET = "llama-0000000000000000-00000000"
SCRIPT = "<script>document.title='taken'</script>"
SEGMENTS = ("sql", "python", "chat", SCRIPT)


@dataclass
class MadeUp:
    """One service; `replicas` by name, all random choices from `seed`."""

    client: redis.Redis
    keys: RedisKeys
    desk: AdminDesk
    segments: Sequence[str] = SEGMENTS
    replicas: Sequence[str] = ("replica-1", "replica-2")
    seed: int = 0

    def decisions(self, directory: Path) -> None:
        """Four versions; `v-2` is champion, `v-1` was, `v-3` is the candidate."""
        parent: str | None = None
        for number in range(4):
            name = f"v-{number}"
            folder = directory / name
            folder.mkdir(parents=True)
            weights = name.encode()
            manifest = {"target": TARGET, "kind": "amphista", "sha256": hashlib.sha256(weights).hexdigest()}
            (folder / "manifest.json").write_text(json.dumps(manifest))
            (folder / "model.safetensors").write_bytes(weights)
            made = int(1000 * (time.time() - 3600 * (4 - number)))
            self.desk.registry.publish(
                folder, Provenance(parent, 100 * number, created_at_ms=made), name=name
            )
            parent = name
        gate = {
            "tau_candidate": 2.31, "tau_champion": 2.12, "gain": 0.09, "lower_bound": 0.04, "records": 120,
            "alpha": 0.025,
        }  # fmt: skip
        self.desk.decide("promote", "v-0", "bootstrap", "the first")
        self.desk.decide("promote", "v-1", "admin", "by hand")
        self.desk.decide("propose", "v-2", "learner", "better on held-out records", numbers=gate)
        self.desk.decide("promote", "v-2", "admin", "better")
        self.desk.decide("propose", "v-3", "learner", "better again", numbers={**gate, "tau_candidate": 2.5})

    def counts(self, now: int, span_s: int = 30 * 86_400) -> None:
        """Roll-ups of all resolutions that the page asks for, with a daily rhythm."""
        rng = random.Random(self.seed)
        rows = {name: self._rows(name, 60) for name in self.segments}
        pipeline = self.client.pipeline(transaction=False)
        for resolution in RESOLUTIONS[1:]:
            first = resolution.start(now - min(span_s, resolution.keep_s))
            for start in range(first, now + 1, resolution.seconds):
                rhythm = 1.5 + math.sin(start / 86_400 * 2 * math.pi) + rng.random() / 2
                scale = rhythm * resolution.seconds / 60
                for replica in self.replicas:
                    cells: dict[Cell, Row] = {}
                    for one in rows.values():
                        share = rng.random() * scale
                        if share > 0.02:
                            cells |= {
                                cell: (row * share).round().astype("int64") for cell, row in one.items()
                            }
                    key = self.keys.rollup(resolution.seconds, start)
                    pipeline.hset(key, pack([replica, "0"]), pack_rows(cells))  # type: ignore[arg-type]
            pipeline.execute()

    def _rows(self, segment: str, requests: int) -> dict[Cell, Row]:
        rng = random.Random(f"{segment} {self.seed}")
        steps = 40 * requests
        tried, accepted, reach, rate = [], [], steps, rng.uniform(0.45, 0.85)
        for depth in range(5):
            tried.append(reach)
            reach = int(reach * rate * 0.95**depth)
            accepted.append(reach)
        committed = steps + sum(accepted)
        counts = SpeculationCounts(
            steps, committed, 9 * steps, tried, accepted, steps, [count // 8 for count in accepted]
        )
        version = "v-2"
        live = TrafficCounts(
            tokens=committed,
            first_token=[0] * 14 + [requests // 4, requests // 2, requests // 4, 2],
            inter_token=[0] * 10 + [steps // 4, steps // 2, steps // 4, steps // 50],
            errors={"overloaded": requests // 30},
        )
        return {
            (segment, version): to_row(TrafficCounts(requests, rng.randint(40, 400) * requests, 0, counts)),
            (segment, LIVE): to_row(live),
        }

    def drift(self, now: int, span_s: int, samples: int = 120, fallen: str | None = None) -> None:
        """Samples over `span_s`; in the last third those of `fallen` drop, and control says so."""
        rng = random.Random(self.seed)
        board = RollupBoard("learner")
        states = []
        for name in self.segments:
            level = rng.uniform(0.55, 0.8)
            stream = self.keys.drift_samples(TARGET, name)
            for number in range(samples):
                drop = 0.2 if name == fallen and number > 2 * samples / 3 else 0.0
                hits = [min(20, max(0, round(20 * (level - drop) + rng.gauss(0, 2)))) for _ in range(2)]
                below = [max(0, hit - 3) for hit in hits]
                sample = DriftSample(
                    f"r{number}", "v-2", Hits(tuple(hits), (20, 20)), Hits(tuple(below), (20, 20)),
                    int(20 * (1.1 + rng.random() / 5) * 1e6), 20,
                )  # fmt: skip
                at_ms = int(1000 * (now - span_s + span_s * number / samples)) + number
                packed = pack([SCHEMA_VERSION, *astuple(sample)])
                self.client.xadd(stream, {"d": packed}, id=f"{at_ms}-0")
                board.add(at_ms // 1000, name, sample.version, TrafficCounts(drift=DriftCounts.of(sample)))
            self.client.zadd(self.keys.drift_segments(TARGET), {name: now})
            alarm = name == fallen
            shift = {"before": 0.71, "after": 0.52, "samples_before": 80, "samples_after": 40, "z": -8.1}
            figures = (
                {"champion": shift, "baseline": {**shift, "before": 0.6, "after": 0.43}} if alarm else {}
            )
            kind: Any = "stale" if alarm else "none"
            alarm_ms = 1000 * (now - span_s // 3) if alarm else None
            states.append(DriftState(name, alarm, kind, 1000 * now, alarm_ms, figures))
        publish_drift_states(self.client, self.keys, TARGET, states)
        RollupPublisher(self.client, self.keys, board).publish()
        self.client.persist(self.keys.drift_states(TARGET))

    def statuses(self, now: int, drafter: str = "v-2") -> None:
        """What replicas, learner and control say of themselves; it doesn't fade."""
        for name in self.replicas:
            publish_load(self.client, self.keys, name, Load(2, 0, 1000 * now + 86_400_000))
            status = {
                "drafter_version": drafter, "decided_version": drafter, "ready": True, "kernel": "native",
                "device": "cpu", "swaps": 1, "engine_error": None, "unusable": {},
            }  # fmt: skip
            self.client.set(self.keys.status(name), pack(status))
        self.client.persist(self.keys.load)
        rooms = {"recent": 40, "long_term": 60, "hardest": 10, "held_out": 22, "tenants": 2, "seen": 300}
        feed = {
            "reader": {"delivered": 1000}, "lag": 3, "lost_in_crash": 0, "training": 240, "held_out": 88,
            "duplicate": 1, "repetition": 4, "segments": dict.fromkeys(self.segments, rooms),
        }  # fmt: skip
        learner = {
            "state": "training", "reason": "no request for 300 ms", "state_since_ms": 1000 * now,
            "state_ms": {"training": 420_000, "evaluating": 60_000, "waiting": 90_000, "yielding": 600_000},
            "loss": 1.93, "steps": 1234, "tokens": 2_400_000, "looks": 3, "erased": 0, "feed": feed,
            "last_look": {"tau_candidate": 2.5, "tau_champion": 2.31},
        }  # fmt: skip
        self.client.set(self.keys.status("learner"), pack(learner))
        message = "drift acceptance 0.71 -> 0.52"
        alarm = {"code": "drift", "about": "sql", "message": message, "since_ms": 1000 * now - 600_000}
        webhook = {"sent": 3, "refused": 0, "given_up": 0, "dropped": 0, "waiting": 1, "trouble": ""}
        control = {"alarms": [alarm], "arms": None, "webhooks": {"slack": webhook}}
        self.client.set(self.keys.status("control"), pack(control))

    def details(self, now: int) -> None:
        """What replicas tell of their last requests and of what drafts promised."""
        rng = random.Random(self.seed)
        for replica in self.replicas:
            requests = [
                RecentRequest(
                    f"chatcmpl-{rng.getrandbits(48):012x}-0", "acme", rng.choice(self.segments), "v-2",
                    1000 * now - number, rng.randint(3, 400), steps + rng.randint(0, 3 * steps), steps,
                    rng.randint(5_000, 90_000), 20_000 * steps,
                )
                for number, steps in enumerate(rng.randint(3, 90) for _ in range(60))
            ]  # fmt: skip
            sources = {}
            for source, boast in (("heads", 0.9), ("ngram", 1.05)):
                nodes = [rng.randint(40, 4_000) for _ in range(10)]
                share = [(tenth + rng.uniform(0.4, 0.6)) / 10 for tenth in range(10)]
                sources[source] = {
                    "nodes": nodes,
                    "promised_micro": [int(1e6 * n * p) for n, p in zip(nodes, share, strict=True)],
                    "accepted": [min(n, int(n * p * boast)) for n, p in zip(nodes, share, strict=True)],
                }
            told = {
                "requests": {
                    name: [one._asdict() for one in some] for name, some in most_notable(requests).items()
                },
                "version": "v-2", "spent_us": 40_000_000, "plain_us": 90_000_000, "seconds": 900,
                "sources": sources,
            }  # fmt: skip
            self.client.set(self.keys.details(replica), pack(told))

    def learner_history(self, now: int, span_s: int = 900) -> None:
        """Readings of a learner that trains, looks and yields by turns, and was started anew half-way."""
        history = LearnerHistory(self.client, self.keys)
        times = dict.fromkeys(("training", "evaluating", "waiting", "yielding"), 0)
        steps = 0
        for at in range(now - span_s, now + 1, min(HISTORY)):
            if at - now + span_s // 2 in range(min(HISTORY)):
                times, steps = dict.fromkeys(times, 0), 0
            wave = 0.45 + 0.35 * math.sin(at / 90)
            for state, part in zip(times, (wave, 0.1, 0.05, 0.85 - wave), strict=True):
                times[state] += int(10_000 * part)
            steps += int(40 * wave)
            look = {"tau_candidate": 2.1 + (at - now + span_s) / span_s * 0.4, "tau_champion": 2.12}
            status = {
                "state": "training", "state_ms": times, "steps": steps, "tokens": 900 * steps,
                "loss": 2.4 - 0.0004 * (at - now + span_s), "looks": steps // 50, "last_look": look,
            }  # fmt: skip
            history.note(status, at)

    def records(self, now: int, count: int = 40) -> None:
        """Recorded requests."""
        rng = random.Random(self.seed)
        for number in range(count):
            lengths = tuple(rng.randint(1, 4) for _ in range(rng.randint(2, 30)))
            record = Interaction(
                target=TARGET, tenant="acme", segment=rng.choice(self.segments),
                prompt_ids=tuple(range(rng.randint(3, 200))), output_ids=tuple(range(sum(lengths))),
                temperature=0.0, top_p=1.0, top_k=0, seed=number, prompt_index=0, choice_index=0,
                accepted_lengths=lengths, tried=(len(lengths),), accepted=(len(lengths) // 2,),
                drafter_version="v-2", finished_at_ms=1000 * now - number,
            )  # fmt: skip
            self.client.xadd(self.keys.records, {"w": b"w", "s": str(number).encode(), "d": encode(record)})
