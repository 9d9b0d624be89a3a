"""The error tree.

OnlineDraftError
├── ConfigError            a setting is wrong; names the field and the accepted values
├── RequestError           a request is wrong; `param` names the field (the API answers 4xx)
│   └── CapacityError      the queue is full (the API answers 503 with Retry-After)
├── TargetError            a target can't be loaded or isn't supported
├── ArtifactError          a drafter's files are missing, truncated, corrupt or for another target
├── JournalError           the decision journal can't be read or written
│   └── LostRaceError      another writer decided first; read again and decide again
├── EngineDead             a replica's engine failed too often or never came up; it must be replaced
├── StoreError             the artifact file system or Redis can't be used
└── LaunchError            Ray, Redis or a deployment did not start; carries the reason
"""

from __future__ import annotations


class OnlineDraftError(Exception):
    """Root of all errors that online-draft raises on purpose."""


class ConfigError(OnlineDraftError, ValueError):
    """A setting is wrong. The message names the field and the accepted values."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class RequestError(OnlineDraftError, ValueError):
    """A request is wrong. `param` is the field as the client named it, `code` OpenAI's error code."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class CapacityError(RequestError):
    """The queue is full; try again after `retry_after_s`."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message, code="server_overloaded")
        self.retry_after_s = retry_after_s


class TargetError(OnlineDraftError):
    """A target can't be loaded or its architecture isn't supported."""


class ArtifactError(OnlineDraftError):
    """A drafter's files are missing, truncated, corrupt, or made for another target."""


class JournalError(OnlineDraftError):
    """The decision journal can't be read or written."""


class LostRaceError(JournalError):
    """Another writer appended first. Read the journal again and decide again."""


class EngineDead(OnlineDraftError):
    """The engine failed too often or never came up; the replica must be replaced."""


class StoreError(OnlineDraftError):
    """The artifact file system or Redis can't be used."""


class LaunchError(OnlineDraftError):
    """Ray, Redis or a deployment did not start. The message carries the reason."""
