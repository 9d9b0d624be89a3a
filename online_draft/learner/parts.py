"""What a learner is made of, put together around one target."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import redis

from online_draft.learner.adapters.regate import Regate
from online_draft.learner.adapters.view import RegateView
from online_draft.learner.alarms import DriftAlarms
from online_draft.learner.checkpoint import CheckpointStore
from online_draft.learner.config import LearnerConfig, LearnerPlace
from online_draft.learner.drift_meter import DriftMeter
from online_draft.learner.drill import Drill
from online_draft.learner.features.replicas import ReplicaFeatures
from online_draft.learner.feed import RecordFeed, assistant_tokens
from online_draft.learner.idle.gpu import Residence
from online_draft.learner.idle.lookout import Lookout
from online_draft.learner.idle.pacer import Pacer
from online_draft.learner.judge.examiner import Examiner
from online_draft.learner.judge.forgetting import Forgetting
from online_draft.learner.judge.ladder_view import LadderView
from online_draft.learner.notebook import Notebook
from online_draft.learner.rate import LearningRate
from online_draft.learner.report import Report
from online_draft.learner.student import Student
from online_draft.models.head import TargetHead
from online_draft.models.loading import LoadedTarget
from online_draft.monitor.rollups.board import RollupBoard
from online_draft.monitor.rollups.publisher import RollupPublisher
from online_draft.registry.journal import Decision
from online_draft.registry.wakeups import publish_wakeup
from online_draft.store import ArtifactStore, connect_redis


@dataclass(frozen=True, slots=True)
class Parts:
    """Each knows only those of the others that it needs; `LearnerLoop` lets them act."""

    client: redis.Redis
    notebook: Notebook
    feed: RecordFeed
    forgetting: Forgetting
    view: LadderView
    residence: Residence
    student: Student
    examiner: Examiner
    regate: Regate
    pacer: Pacer
    meter: DriftMeter
    rollups: RollupPublisher
    lookout: Lookout
    rate: LearningRate
    alarms: DriftAlarms
    report: Report
    drill: Drill
    replicas: ReplicaFeatures | None
    """Where features come from, if not from the learner's own target."""


def parts_of(place: LearnerPlace, config: LearnerConfig, loaded: LoadedTarget) -> Parts:
    """All parts, as the last learner of this target left them. StoreError without the artifact store."""
    client, store = connect_redis(place.redis_url), ArtifactStore(place.store)
    target, fingerprint, cache = loaded.target, loaded.fingerprint, Path(place.cache_dir)
    cuda, nodes = target.device.type == "cuda", place.tree_nodes or 16
    source = target.source if isinstance(target, TargetHead) else None
    slice_ms = config.pace.limit_ms(target.device.type)

    def notify(decision: Decision) -> None:
        publish_wakeup(client, place.keys, decision)

    notebook = Notebook(CheckpointStore(store, fingerprint), config.pace.checkpoint_every_s)
    restored = notebook.restored
    feed = RecordFeed(
        place.redis_url,
        place.keys,
        fingerprint,
        config.reservoirs,
        assistant_tokens(loaded.tokenizer),
        (restored.reader, restored.reservoirs) if restored else None,
        store,
        int(restored.progress.get("erased", 0)) if restored else 0,
    )
    view = LadderView(store, target, fingerprint, cache, notify)
    student, examiner = Student(target, config), Examiner(target, config, nodes)
    pacer = Pacer(slice_ms, config.pace.max_batch, cpu=not cuda)
    drift_pacer = Pacer(slice_ms, config.gate.max_records, cpu=not cuda)
    rate, report = LearningRate(config.rate), Report(client, place.keys)
    board = RollupBoard("learner")
    return Parts(
        client=client,
        notebook=notebook,
        feed=feed,
        forgetting=Forgetting(store, fingerprint),
        view=view,
        residence=Residence(target),
        student=student,
        examiner=examiner,
        regate=Regate(target, config, nodes, RegateView(store, fingerprint, cache, notify)),
        pacer=pacer,
        meter=DriftMeter(client, place.keys, fingerprint, target, drift_pacer, view.fetch, board),
        rollups=RollupPublisher(connect_redis(place.redis_url), place.keys, board),
        lookout=Lookout(place.redis_url, client, place.keys, config, cuda, place.others),
        rate=rate,
        alarms=DriftAlarms(client, place.keys, fingerprint),
        report=report,
        drill=Drill(config.seed, student, feed, pacer, rate, notebook, examiner, report),
        replicas=source if isinstance(source, ReplicaFeatures) else None,
    )
