"""Checks of this machine: each one finds a fact and says what to do about it. `online-draft doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from online_draft.errors import ConfigError, LaunchError, OnlineDraftError
from online_draft.launch.run_file import find_run_files
from online_draft.models.embedded import DRAFTERS_DIR, TARGET_DIR
from online_draft.settings import Settings

Status = Literal["ok", "warn", "fail"]

PYTHON_RANGE = ((3, 11), (3, 13))
DISK_NEEDED_MB = 500
DISK_WANTED_MB = 2_000
SHIPPED_DRAFTERS = ("baseline", "narrow")
_NAMED_PACKAGES = ("torch", "transformers", "ray", "redis", "fastapi")
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact. `remedy` is what to do about it, empty when there is nothing to do."""

    status: Status
    name: str
    detail: str
    remedy: str = ""


def run(settings: Settings, console: Console | None = None) -> int:
    """Print all findings as a table; 1 if one of them stops the service from running, else 0."""
    return show(examine(settings), console)


def show(examined: Iterable[Finding], console: Console | None = None) -> int:
    """Print findings as a table; 1 if one of them is a failure, else 0."""
    findings = list(examined)
    table = Table()
    for heading in ("", "check", "finding", "what to do"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        colour = _COLOURS[finding.status]
        texts = map(escape, (finding.name, finding.detail, finding.remedy))
        table.add_row(f"[{colour}]{finding.status}[/]", *texts)
    (console or Console()).print(table)
    return int(any(finding.status == "fail" for finding in findings))


def examine(settings: Settings) -> Iterator[Finding]:
    """All checks for these settings, one finding each. Starts and changes nothing."""
    runs = find_run_files(settings.state_dir)
    yield check_python()
    yield check_packages()
    for device in dict.fromkeys(model.device for model in settings.each):
        yield check_torch(device)
    for kind in dict.fromkeys((each.device, each.dtype, each.engine.kernels) for each in settings.each):
        yield check_kernels(*kind)
    yield check_redis(settings.redis.url)
    yield check_ray(settings.ray.address)
    yield check_models(TARGET_DIR, DRAFTERS_DIR)
    yield check_writable(settings.state_dir)
    yield check_writable(settings.ray.temp_dir, "ray.temp_dir")
    yield check_disk(settings.state_dir)
    yield check_shared_memory(settings.ray.object_store_mb)
    yield check_port(settings.host, settings.port, {(found.host, found.port) for found in runs})


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> Finding:
    """The interpreter is one that the tests run on."""
    text = f"{version[0]}.{version[1]} at {sys.executable}"
    if PYTHON_RANGE[0] <= version < PYTHON_RANGE[1]:
        return Finding("ok", "python", text)
    return Finding("fail", "python", text, "use Python 3.11 or 3.12: make setup PYTHON=/path/to/python3.11")


def check_packages(distribution: str = "online-draft") -> Finding:
    """Every requirement of `distribution` is installed in its range; extras are left out."""
    try:
        requirements = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return Finding("fail", "packages", f"{distribution} is not installed", "run `make setup`")
    wrong, shown = [], []
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
        elif requirement.name in _NAMED_PACKAGES:
            shown.append(f"{requirement.name} {version}")
    if wrong:
        return Finding("fail", "packages", "; ".join(wrong), "run `make setup`")
    return Finding("ok", "packages", ", ".join(shown))


def check_torch(device: str = "cpu") -> Finding:
    """The build of torch fits the hardware and the `device` that is set."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("fail", "torch", f"does not start: {error}", "run `make setup TORCH=cpu`")
    build = f"{torch.__version__}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        return Finding("ok", "torch", f"{build}, {torch.cuda.get_device_name()}, device {device}")
    driver = shutil.which("nvidia-smi") is not None
    if device == "cpu" and not (driver and torch.version.cuda is None):
        return Finding("ok", "torch", f"{build}, device cpu")
    status: Status = "warn" if device == "cpu" else "fail"
    if torch.version.cuda is None:
        remedy = "run `make setup TORCH=cuda` to use the GPU"
        return Finding(status, "torch", f"{build}, a CPU build; device {device}", remedy)
    remedy = "see `nvidia-smi`: driver new enough for this build, device visible? Or use --device cpu"
    return Finding(status, "torch", f"{build}, a CUDA build that finds no device; device {device}", remedy)


def check_kernels(device: str = "cpu", dtype: str = "float32", kernels: str = "auto") -> Finding:
    """Compiled kernels, which make decoding on CPUs fast, are there or can be built. Builds nothing."""
    from online_draft.models.native import build

    name, without = "kernels", "decoding in torch: right, but slower"
    if device != "cpu" or dtype not in ("float32", "float64"):
        return Finding("ok", name, f"not used with {device} and {dtype}")
    if kernels == "off" or build.switched_off():
        by = "engine.kernels" if kernels == "off" else "ONLINE_DRAFT_KERNELS"
        return Finding("ok", name, f"switched off by {by}; {without}")
    reason = build.refused()
    if reason is not None:
        return Finding("warn", name, f"{reason}; {without}", "set ONLINE_DRAFT_CACHE to a folder of your own")
    compiler = build.find_compiler()
    if compiler is None:
        built = build.built_library()
        if built is not None:
            return Finding("ok", name, f"{built}, built before; no C++ compiler is here now")
        wanted = os.environ.get("CXX")
        missing = f"CXX={wanted} is not found" if wanted else f"none of {', '.join(build.COMPILERS)} is found"
        return Finding(
            "warn", name, f"no C++ compiler: {missing}; {without}", "run `apt install g++`, or set CXX"
        )
    try:
        path = build.library_path(compiler)
    except (build.BuildError, OSError) as error:
        return Finding("warn", name, f"{error}; {without}", "install another C++ compiler, or set CXX")
    if build.trusted(path):
        return Finding("ok", name, f"{path}, built by {compiler}")
    if not os.access(_nearest_existing(path.parent), os.W_OK):
        remedy = "set ONLINE_DRAFT_CACHE to a folder that you may write to"
        return Finding("warn", name, f"{path.parent} can't be written; {without}", remedy)
    return Finding("ok", name, f"the first start builds them with {compiler}; torch decodes meanwhile")


def check_redis(url: str | None = None) -> Finding:
    """The Redis at `url` answers and is new enough; without one, a server binary can be started."""
    from online_draft.redis_server import MINIMUM_VERSION, find_redis_server

    if url is None:
        try:
            binary = find_redis_server()
        except LaunchError as error:
            return Finding("fail", "redis", str(error), "run `apt install redis-server`")
        version = ".".join(map(str, binary.version))
        return Finding("ok", "redis", f"{version} at {binary.path}, started privately")

    import redis

    from online_draft.store import connect_redis
    from online_draft.store.connection import without_password

    shown = without_password(url)
    try:
        client = connect_redis(url)
        try:
            info = client.info("server")
        finally:
            client.close()
    except (redis.RedisError, OSError, ConfigError) as error:
        return Finding("fail", "redis", f"{shown}: {error}", "start that Redis, or leave redis.url unset")
    text = str(info["redis_version"])
    found = tuple(int(part) for part in text.split(".")[:2])
    if found < MINIMUM_VERSION:
        needed = ".".join(map(str, MINIMUM_VERSION))
        return Finding("fail", "redis", f"{shown} is Redis {text}", f"use Redis {needed} or newer")
    return Finding("ok", "redis", f"{text} at {shown}")


def check_ray(address: str | None = None) -> Finding:
    """Ray starts to import, and the environment lets a private instance be started."""
    try:
        import ray
    except (ImportError, OSError) as error:
        return Finding("fail", "ray", f"does not start: {error}", "run `make setup`")
    if address is not None:
        return Finding("ok", "ray", f"{ray.__version__}, joins {address}")
    auth = os.environ.get("RAY_AUTH_MODE", "disabled")
    if auth != "disabled":
        remedy = "unset RAY_AUTH_MODE: a private instance on loopback needs none"
        return Finding("warn", "ray", f"{ray.__version__}, RAY_AUTH_MODE={auth}", remedy)
    other = os.environ.get("RAY_ADDRESS")
    beside = f" (not the cluster of RAY_ADDRESS={other})" if other else ""
    return Finding("ok", "ray", f"{ray.__version__}, starts a private instance{beside}")


def check_disk(folder: Path) -> Finding:
    """There is room for drafter versions, the journal and logs where `folder` is or will be."""
    existing = _nearest_existing(folder)
    free = shutil.disk_usage(existing).free // 2**20
    detail = f"{free:,} MB free at {existing}"
    if free < DISK_NEEDED_MB:
        return Finding("fail", "disk", detail, f"free {DISK_NEEDED_MB} MB, or set another state_dir")
    if free < DISK_WANTED_MB:
        return Finding("warn", "disk", detail, "little room for drafter versions: free some or prune them")
    return Finding("ok", "disk", detail)


def check_shared_memory(needed_mb: int, folder: Path = Path("/dev/shm")) -> Finding:
    """Ray's object store lives in shared memory; too small, Ray puts it on disk."""
    if not folder.is_dir():
        return Finding("warn", "shared memory", f"no {folder}", "mount one: else Ray's objects go to disk")
    usage = shutil.disk_usage(folder)
    free = usage.free // 2**20
    detail = f"{free:,} of {usage.total // 2**20:,} MB free at {folder}, {needed_mb} MB wanted"
    if free < needed_mb:
        return Finding("warn", "shared memory", detail, "in a container: run it with --shm-size=1g")
    return Finding("ok", "shared memory", detail)


def check_port(host: str, port: int, own: Collection[tuple[str, int]] = ()) -> Finding:
    """`host` is an address here and nobody listens on `port` yet, except our own running systems."""
    from online_draft.launch.ports import check_port as bind

    if (host, port) in own:
        return Finding("ok", "port", f"{host}:{port} is served by online-draft, which runs already")
    if port == 0:
        return Finding("ok", "port", f"a free one on {host}")
    try:
        bind(host, port)
    except ConfigError as error:
        remedy = f"find who listens (`ss -ltnp sport = :{port}`), or use --port 0"
        return Finding(
            "fail", "port", str(error), remedy if error.field == "port" else "use --host 127.0.0.1"
        )
    return Finding("ok", "port", f"{host}:{port} is free")


def check_writable(folder: Path, setting: str = "state_dir") -> Finding:
    """Files can be made in `folder`, or in the folder where it will be made."""
    existing = _nearest_existing(folder)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        detail = f"{folder}: {error.strerror}"
        return Finding("fail", setting, detail, f"set {setting} to a folder that you may write to")
    return Finding("ok", setting, f"{folder}{'' if folder.exists() else ' (will be made)'}")


def check_models(target: Path, drafters: Path, names: tuple[str, ...] = SHIPPED_DRAFTERS) -> Finding:
    """The embedded target loads, and its drafters are complete, uncorrupted and made for it."""
    from online_draft.models.artifact import load_drafter
    from online_draft.models.loading import load_target

    remedy = "the installation is damaged: check the repository out again, or reinstall the wheel"
    try:
        loaded = load_target(str(target))
        for name in names:
            load_drafter(drafters / name, expected_fingerprint=loaded.fingerprint)
    except (OnlineDraftError, OSError) as error:
        return Finding("fail", "embedded model", str(error), remedy)
    return Finding("ok", "embedded model", f"{loaded.fingerprint}, drafters {', '.join(names)}")


def _nearest_existing(folder: Path) -> Path:
    folder = folder.expanduser().absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
