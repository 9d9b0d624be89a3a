"""A private Ray on loopback, and the application on it. Ray is imported late: its environment comes first."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from typing import Any, cast

from online_draft.errors import LaunchError

NAMESPACE = "online-draft"

_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SERVE_ENABLE_TASK_EVENTS": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_enable_export_api_write": "0",
}


def prepare_environment() -> None:
    """Set what Ray and its workers read from the environment. Idempotent; before ray is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ[name] = value
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        hosts += [host for host in ("127.0.0.1", "localhost", "::1") if host not in hosts]
        os.environ[name] = ",".join(hosts)


def start_ray(temp_dir: str, cpus: float, object_store_mb: int, gpus: int | None = None) -> None:
    """Start a private Ray. LaunchError carries Ray's reason."""
    prepare_environment()
    import ray

    try:
        ray.init(
            address="local",
            num_cpus=int(cpus),
            num_gpus=gpus,
            namespace=NAMESPACE,
            include_dashboard=False,
            object_store_memory=object_store_mb * 1024 * 1024,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=temp_dir,
        )
    except Exception as error:
        raise LaunchError(f"ray did not start: {error}") from error


def join_ray(address: str) -> None:
    """Join a running Ray cluster. LaunchError when it can't be reached."""
    import ray

    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        raise LaunchError(f"ray at {address} can't be joined: {error}") from error


def deploy(
    application: Any,
    name: str,
    host: str,
    port: int,
    timeout_s: float,
    tls: tuple[str, str] | None = None,
    *,
    proxy: bool = True,
) -> None:
    """Start HTTP on (host, port), deploy the application and wait until it runs. HTTPS with `tls`, the files
    of certificate and private key. Without `proxy` the application speaks HTTP itself.

    LaunchError with Ray's own reason when it fails or takes longer than `timeout_s`.
    """
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    deadline = time.monotonic() + timeout_s
    http: dict[str, Any] = {"host": host, "port": port}
    if tls is not None:
        http["ssl_certfile"], http["ssl_keyfile"] = tls
    try:
        serve.start(
            proxy_location="HeadOnly" if proxy else "Disabled",
            http_options=http if proxy else None,
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        serve.run_many(
            [
                serve.RunTarget(
                    application, name=name, route_prefix="/", logging_config={"enable_access_log": False}
                )
            ],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )
        while True:
            state = serve.status().applications[name]
            if state.status == ApplicationStatus.RUNNING:
                return
            failed = state.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)
            if failed or time.monotonic() > deadline:
                raise LaunchError(_reason(state, timeout_s if not failed else None))
            time.sleep(0.1)
    except LaunchError:
        raise
    except Exception as error:
        raise LaunchError(f"the application could not be deployed: {error}") from error


def ask_replica(app: str, deployment: str, timeout_s: float) -> dict[str, Any]:
    """A replica's `status`. LaunchError when none answers."""
    from ray import serve

    try:
        status: dict[str, Any] = (
            serve.get_deployment_handle(deployment, app).status.remote().result(timeout_s=timeout_s)
        )
    except Exception as error:
        raise LaunchError(f"no replica answers: {error}") from error
    return status


def undeploy(name: str, ingress: str) -> None:
    """Let the application's replicas finish in order and remove it. Other applications are left alone.

    Each process of the deployment `ingress` is told before, by its method `end`.
    """
    from ray import serve

    with contextlib.suppress(Exception):
        serve.get_deployment_handle(ingress, name).broadcast("end").results(timeout_s=5.0)
    serve.delete(name)


def end_actor(name: str) -> None:
    """Kill a named detached actor. Idempotent."""
    import ray

    with contextlib.suppress(ValueError):
        ray.kill(ray.get_actor(name, namespace=NAMESPACE))


def leave_ray() -> None:
    """Disconnect; ends a private Ray and all its processes."""
    import ray

    cast(Any, ray.shutdown)()


def _reason(state: Any, timeout_s: float | None) -> str:
    """Why an application isn't running: Ray's messages, the most specific one first, tracebacks cut short."""
    messages = [deployment.message for deployment in state.deployments.values()] + [state.message]
    spoken = [message.strip() for message in messages if message and message.strip()]
    lines = spoken[0].splitlines() if spoken else ["Ray gives no reason"]
    causes = [line for line in lines if "Error" in line and not line.startswith((" ", "\t"))]
    reason = causes[-1] if causes else lines[-1]
    when = f" within {timeout_s:.0f} s" if timeout_s is not None else ""
    return f"the application did not come up{when}: {reason}"
