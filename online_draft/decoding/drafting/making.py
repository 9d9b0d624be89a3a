"""A new `Drafting`, for the champion and the runner at hand: both fix what a step costs."""

from __future__ import annotations

import time
from collections.abc import Callable

from online_draft.decoding.config import EngineConfig
from online_draft.decoding.drafting.arms import Arms
from online_draft.decoding.drafting.drafting import Drafting
from online_draft.decoding.drafting.ngrams import NgramDrafts
from online_draft.decoding.policy.cost import CostModel
from online_draft.decoding.policy.profile import StepProfile
from online_draft.decoding.policy.speculation import SpeculationPolicy
from online_draft.decoding.runners.profiling import step_profile
from online_draft.decoding.runners.select import RunnerChoice
from online_draft.models.target import Target


def measured_profile(
    runners: RunnerChoice, target: Target, fingerprint: str, arms: Arms, config: EngineConfig, threads: int
) -> StepProfile | None:
    """What steps take here, measured now or earlier; None where nothing depends on it."""
    if config.speculation != "auto":
        return None
    return step_profile(runners, target, fingerprint, arms.champion.drafter, config, threads)


def make_drafting(
    profile: StepProfile | None,
    padded: bool,
    arms: Arms,
    ngrams: NgramDrafts | None,
    config: EngineConfig,
    clock: Callable[[], float] = time.perf_counter,
) -> Drafting:
    """With a policy that knows nothing yet but what steps take."""
    nodes = config.tree_nodes
    able = arms.champion.drafter is not None or ngrams is not None
    mode = config.speculation if able and nodes else "off"
    cost = CostModel(profile or StepProfile((1,), (1e-3,)), padded)
    policy = SpeculationPolicy(cost, nodes, mode)
    return Drafting(policy, nodes, config.tree_width, arms, ngrams, config.noise_ranked, clock)
