"""Which replica gets a request, and how many there should be."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from online_draft.core import GenerationRequest
from online_draft.errors import ConfigError
from online_draft.serve.fleet import placement as placement_module
from online_draft.serve.fleet.autoscaling import ingress_autoscaling, pressure_policy, replica_autoscaling
from online_draft.serve.fleet.messages import ReplicaLoad
from online_draft.serve.fleet.placement import Placement
from online_draft.serve.fleet.scaling import ScalingConfig


@dataclass
class Place:
    name: str
    pressure: float = 0.0


def ask(prompt: range, tenant: str = "t", session: str | None = None) -> GenerationRequest:
    return GenerationRequest("r", tuple(prompt), tenant=tenant, session=session)


def test_the_next_turn_goes_to_the_replica_that_had_the_last_one() -> None:
    placement, places = Placement(16), [Place("a", 0.2), Place("b", 0.1), Place("c", 0.2)]
    assert placement.choose(ask(range(100)), places).name == "b"
    places[1].pressure = 0.3
    assert placement.choose(ask(range(130)), places).name == "b"
    assert placement.choose(ask(range(20)), places).name == "b"  # a shared beginning of one block
    assert placement.choose(ask(range(1, 130)), places).name == "a"
    assert placement.choose(ask(range(130), tenant="other"), places).name == "a"


def test_a_cached_beginning_gives_way_to_a_much_less_busy_replica() -> None:
    placement, places = Placement(16), [Place("a"), Place("b", 0.1)]
    placement.choose(ask(range(100)), places)
    places[0].pressure = 0.5
    assert placement.choose(ask(range(100)), places).name == "b"
    places[0].pressure = 0.0
    assert placement.choose(ask(range(100)), places).name == "b"  # which has it now, too


def test_the_longest_beginning_wins_and_replicas_that_left_are_passed_over() -> None:
    placement, a, b = Placement(16), Place("a"), Place("b")
    placement.choose(ask(range(64)), [a, Place("x", 9)])
    placement.choose(ask(range(128)), [b, Place("x", 9)])
    assert placement.choose(ask(range(200)), [a, b]).name == "b"
    placement.choose(ask(range(32)), [a, Place("x", 9)])
    assert placement.choose(ask(range(40)), [a, b]).name == "a"
    assert placement.choose(ask(range(200)), [a, Place("x")]).name == "a"


def test_all_ingresses_send_a_session_to_the_same_replica() -> None:
    places = [Place(name) for name in "abcde"]
    homes = {}
    for number in range(200):
        request = ask(range(number, number + 40), session=f"s{number}")
        homes[number] = Placement(16).choose(request, places).name
        assert Placement(16).choose(request, places[::-1]).name == homes[number]
    assert len(set(homes.values())) == 5
    fewer = [place for place in places if place.name != "c"]
    for number, home in homes.items():
        request = ask(range(number, number + 40), session=f"s{number}")
        if home != "c":
            assert Placement(16).choose(request, fewer).name == home


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement_module, "REMEMBERED", 10)
    placement, places = Placement(16), [Place("a"), Place("b")]
    for start in range(100):
        placement.choose(ask(range(start, start + 64)), places)
    assert len(placement._known) == 10


def context(pressures: list[float], replicas: int, **more: Any) -> Any:
    return SimpleNamespace(
        aggregated_metrics={"pressure": {str(i): value for i, value in enumerate(pressures)}},
        config=SimpleNamespace(target_ongoing_requests=0.8),
        current_num_replicas=replicas,
        target_num_replicas=replicas,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=4,
        **more,
    )


def test_replicas_follow_the_pressure_of_queue_or_cache() -> None:
    assert ReplicaLoad(2, 0, 8, 64, 0.1).pressure == 0.25
    assert ReplicaLoad(8, 4, 8, 64, 0.1).pressure == 1.5
    assert ReplicaLoad(2, 0, 8, 64, 0.9).pressure == 0.9
    assert pressure_policy(context([1.5], 1))[0] == pytest.approx(1.875)
    assert pressure_policy(context([0.2, 0.2, 0.2], 3))[0] == 1
    assert pressure_policy(context([0.8, 0.8], 2))[0] == 2
    assert pressure_policy(context([9.0], 3))[0] == 4
    assert pressure_policy(context([1.6], 2))[0] == 4  # one hasn't said anything yet
    assert pressure_policy(context([], 2))[0] == 2


def test_numbers_are_fixed_unless_there_is_room_above_them() -> None:
    assert replica_autoscaling(ScalingConfig(), 2) is None
    assert replica_autoscaling(ScalingConfig(max_replicas=2), 2) is None
    assert ingress_autoscaling(ScalingConfig()) is None
    scaled = replica_autoscaling(ScalingConfig(max_replicas=3, target_pressure=0.5), 2)
    assert scaled is not None
    assert (scaled.min_replicas, scaled.max_replicas, scaled.target_ongoing_requests) == (2, 3, 0.5)
    assert scaled.policy.get_policy()(context([0.8], 2))[0] == 2
    listening = ingress_autoscaling(ScalingConfig(max_ingresses=3, streams_per_ingress=10), listening=True)
    assert listening is not None and not listening.policy.is_default_policy_function()
    assert listening.target_ongoing_requests == 10
    more = ingress_autoscaling(ScalingConfig(max_ingresses=3, streams_per_ingress=10))
    assert more is not None and more.policy.is_default_policy_function()
    assert more is not None and more.target_ongoing_requests == 10


@pytest.mark.parametrize(
    ("field", "value"),
    [("ingresses", 0), ("max_ingresses", 0), ("max_replicas", 0), ("target_pressure", 0), ("drain_s", -1)],
)
def test_wrong_numbers_are_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"scaling.{field}"):
        ScalingConfig(**{field: value})  # type: ignore[arg-type]
