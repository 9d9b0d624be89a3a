"""When Ray Serve adds and removes replicas: by how busy their engines are, not by open streams."""

from __future__ import annotations

from typing import Any, cast

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from online_draft.serve.fleet.scaling import ScalingConfig


def pressure_policy(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """As many replicas as would bring the mean pressure to the target, which Ray Serve carries as
    `target_ongoing_requests`; and no state. Ray Serve copies this into its controller, and applies bounds
    and delays itself."""
    recorded = (context.aggregated_metrics or {}).get("pressure", {})
    target = context.config.target_ongoing_requests if context.config is not None else None
    if not recorded or not target:
        return context.target_num_replicas, {}
    mean = sum(recorded.values()) / len(recorded)
    wanted = mean * max(1, context.current_num_replicas) / target
    bounds = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
    return min(max(wanted, bounds[0]), bounds[1]), {}


def replica_autoscaling(scaling: ScalingConfig, replicas: int) -> AutoscalingConfig | None:
    """For the replicas' deployment; None where their number is fixed."""
    if scaling.max_replicas is None or scaling.max_replicas <= replicas:
        return None
    target = scaling.target_pressure
    return _autoscaling(
        scaling, replicas, scaling.max_replicas, target_ongoing_requests=target, policy=_by_pressure()
    )


def ingress_autoscaling(scaling: ScalingConfig, listening: bool = False) -> AutoscalingConfig | None:
    """For the ingresses' deployment; None where their number is fixed. `listening` ingresses count their
    requests themselves, as their pressure: Ray Serve doesn't see them."""
    if scaling.max_ingresses is None or scaling.max_ingresses <= scaling.ingresses:
        return None
    target = float(scaling.streams_per_ingress)
    more = {"policy": _by_pressure()} if listening else {}
    return _autoscaling(
        scaling, scaling.ingresses, scaling.max_ingresses, target_ongoing_requests=target, **more
    )


def _by_pressure() -> Any:
    return cast(Any, AutoscalingPolicy)(policy_function=f"{__name__}:pressure_policy")


def _autoscaling(scaling: ScalingConfig, least: int, most: int, **more: Any) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=least,
        max_replicas=most,
        upscale_delay_s=scaling.upscale_delay_s,
        downscale_delay_s=scaling.downscale_delay_s,
        look_back_period_s=max(10.5, scaling.upscale_delay_s),
        **more,
    )
