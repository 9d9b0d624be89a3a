"""What processes and Redis hold: resident memory, open files, keys that don't expire."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

MEMORY_BOUND = 1.05
FILES_BOUND = 4


@dataclass(frozen=True, slots=True)
class Holding:
    """Of one process: resident bytes and open files."""

    memory: int
    files: int


def holding(pid: int) -> Holding:
    """What a process holds now. OSError when it is gone."""
    proc = Path(f"/proc/{pid}")
    pages = int((proc / "statm").read_text().split()[1])
    return Holding(pages * os.sysconf("SC_PAGE_SIZE"), len(list((proc / "fd").iterdir())))


def lasting(client: redis.Redis) -> frozenset[bytes]:
    """Keys that don't expire."""
    found: Any = client.keys("*")
    return frozenset(key for key in found if client.ttl(key) == -1)


def leaks(before: Mapping[str, Holding], after: Mapping[str, Holding]) -> list[str]:
    """What has grown beyond 5 % of memory or a few files, in words."""
    wrong = []
    for name, was in before.items():
        now = after.get(name)
        if now is None:
            wrong.append(f"{name} is gone")
            continue
        if now.memory > MEMORY_BOUND * was.memory:
            wrong.append(f"{name} grew from {was.memory:,} to {now.memory:,} bytes")
        if now.files > was.files + FILES_BOUND:
            wrong.append(f"{name} has {now.files} files open, had {was.files}")
    return wrong


def new_keys(before: Iterable[bytes], after: Iterable[bytes]) -> list[str]:
    """Keys that came, in words."""
    return [f"Redis key {key.decode(errors='replace')} was left" for key in sorted({*after} - {*before})]
