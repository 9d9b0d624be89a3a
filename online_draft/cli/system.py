"""Which system a command is about: options that many commands share, and whom they talk to with these."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from online_draft.cli.options import Key, Model, Offline, StateDir, Url, read_settings

if TYPE_CHECKING:
    from online_draft.launch.admin import Admin, OnlineAdmin
    from online_draft.settings import Settings

Command = Callable[..., None]


@dataclass(frozen=True, slots=True)
class System:
    """The system at `url`, else the one of the state directory; of it one model, else the first."""

    state_dir: Path | None = None
    url: str | None = None
    admin_key: str | None = None
    model: str | None = None
    offline: bool = False

    @property
    def all_settings(self) -> Settings:
        """Of the service in the state directory, with all its models."""
        return read_settings(flags={"state_dir": self.state_dir})

    @property
    def settings(self) -> Settings:
        """Of the one model."""
        return self.all_settings.of(self.model)

    def admin(self) -> Admin:
        """The system that runs, or offline the artifact store itself."""
        if self.offline:
            from online_draft.launch.admin import OfflineAdmin

            return OfflineAdmin(self.settings)
        return self.online()

    def online(self) -> OnlineAdmin:
        """The system that runs."""
        from online_draft.launch.admin import connect

        return connect(self.all_settings.state_dir, self.url, self.admin_key, self.model)


def of_system(command: Command) -> Command:
    """A command about a system that runs or, with `--offline`, about its artifact store. The options take the
    place of its parameter `system`."""

    def options(
        state_dir: StateDir = None,
        url: Url = None,
        admin_key: Key = None,
        model: Model = None,
        offline: Offline = False,
    ) -> None: ...

    return _with(options, command)


def of_running_system(command: Command) -> Command:
    """The same of one about a system that runs."""

    def options(
        state_dir: StateDir = None, url: Url = None, admin_key: Key = None, model: Model = None
    ) -> None: ...

    return _with(options, command)


def of_store(command: Command) -> Command:
    """The same of one about the files in the state directory."""

    def options(state_dir: StateDir = None, model: Model = None) -> None: ...

    return _with(options, command)


def _with(options: Callable[..., None], command: Command) -> Command:
    shared = inspect.signature(options, eval_str=True).parameters
    signature = inspect.signature(command, eval_str=True)

    @wraps(command)
    def run(**given: Any) -> None:
        system = System(**{name: given.pop(name) for name in shared})
        command(system=system, **given)

    own = [parameter for name, parameter in signature.parameters.items() if name != "system"]
    parameters = [*own, *shared.values()]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
