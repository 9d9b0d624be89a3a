"""TCP ports on this machine."""

from __future__ import annotations

import errno
import socket

from online_draft.errors import ConfigError


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on right now."""
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """ConfigError naming `port` when it is taken or not ours, `host` when it isn't an address here."""
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                reason = "is taken" if error.errno == errno.EADDRINUSE else "needs privileges"
                raise ConfigError(
                    "port", f"{port} on {host} {reason}; choose another, or 0 for a free one"
                ) from error
            raise ConfigError(
                "host", f"{host!r} is not an address of this machine: {error.strerror}"
            ) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
