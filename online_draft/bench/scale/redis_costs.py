"""What a stretch of time cost a Redis server, by its own accounts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import redis


@dataclass(frozen=True, slots=True)
class Reading:
    """The server's counters at a moment: commands as name -> (calls, µs of their own)."""

    at_s: float
    cpu_s: float
    received: int
    sent: int
    commands: dict[str, tuple[int, float]]

    @classmethod
    def of(cls, client: redis.Redis) -> Reading:
        """Read now."""
        info: dict[str, Any] = client.info("everything")
        return cls(
            time.perf_counter(),
            float(info["used_cpu_user"]) + float(info["used_cpu_sys"]),
            int(info["total_net_input_bytes"]),
            int(info["total_net_output_bytes"]),
            {
                name.removeprefix("cmdstat_"): (int(stat["calls"]), float(stat["usec"]))
                for name, stat in info.items()
                if name.startswith("cmdstat_")
            },
        )


def costs(before: Reading, after: Reading, replicas: int) -> dict[str, Any]:
    """Per replica and second: commands, µs of the server's CPU (all of it, sockets included), bytes in and
    out; by command calls, and µs each of its own."""
    shares = replicas * (after.at_s - before.at_s)
    by_command: dict[str, dict[str, float]] = {}
    total = 0
    for name, (calls, spent_us) in after.commands.items():
        known_calls, known_us = before.commands.get(name, (0, 0.0))
        if name in _OURS or calls == known_calls:
            continue
        total += calls - known_calls
        by_command[name] = {
            "per_s": round((calls - known_calls) / shares, 3),
            "us": round((spent_us - known_us) / (calls - known_calls), 2),
        }
    return {
        "commands": round(total / shares, 2),
        "cpu_us": round(1e6 * (after.cpu_s - before.cpu_s) / shares, 1),
        "bytes_in": round((after.received - before.received) / shares),
        "bytes_out": round((after.sent - before.sent) / shares),
        "by_command": dict(sorted(by_command.items(), key=lambda item: -item[1]["per_s"])),
    }


_OURS = ("config", "config|get", "client", "hello", "command")
"""Of connections, not of work."""
