"""One tree of settings: flags over environment over file over defaults.

Environment variables start with `ONLINE_DRAFT_` and go deeper with `__`: `ONLINE_DRAFT_ENGINE__TREE_NODES=8`.
The file is TOML: `--config`, else `online-draft.toml` in the current directory if it exists.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from online_draft.buffer.writer import WriterConfig
from online_draft.control.config import ControlConfig
from online_draft.decoding.config import EngineConfig
from online_draft.errors import ConfigError
from online_draft.learner.config import LearnerConfig

ENV_PREFIX = "ONLINE_DRAFT_"
DEFAULT_FILE = Path("online-draft.toml")
EMBEDDED_MODEL_NAME = "online-draft"

MIN_OBJECT_STORE_MB = 80
"""Ray refuses less than 75 MiB."""


def default_state_dir() -> Path:
    """`$XDG_STATE_HOME/online-draft`, else `~/.local/share/online-draft`."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "online-draft"


def _only_fields_of(owner: type) -> Callable[[Any], Any]:
    """Refuse misspelt keys of a section whose dataclass lives beside its owner, at any depth."""

    def check(value: Any) -> Any:
        _check_keys(owner, value, "")
        return value

    return check


def _check_keys(owner: Any, value: Any, path: str) -> None:
    if not (isinstance(value, Mapping) and is_dataclass(owner)):
        return
    known = get_type_hints(owner)
    for key, inner in value.items():
        if key not in known:
            raise ValueError(f"unknown field {path + key!r}; known: {', '.join(known)}")
        _check_keys(known[key], inner, f"{path}{key}.")


class RedisSettings(BaseModel):
    """Which Redis. Without a URL the service starts a private one on a socket only this user can open."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str | None = None
    prefix: str = "od"
    maxmemory: str = "256mb"


class RaySettings(BaseModel):
    """Which Ray. Without an address the service starts a private one on loopback."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str | None = None
    object_store_mb: int = Field(default=100, ge=MIN_OBJECT_STORE_MB)
    temp_dir: Path = Path("/tmp")


class Settings(BaseSettings):
    """Everything that can be set. Frozen once read."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, protected_namespaces=()
    )

    target: str = "embedded"
    """`embedded`, a Hugging Face directory or a Hub name."""
    model_name: str | None = None
    """How clients name the model; by default the last part of the target's name."""
    drafter: str | None = None
    """What a fresh journal starts with: `baseline`, `narrow`, `untrained` or a directory."""
    device: Annotated[str, Field(pattern=r"^(cpu|cuda)$")] = "cpu"
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of one replica: torch's, and those of compiled kernels unless `engine.threads` is set. By
    default torch takes its own number, and a probe finds the kernels'."""
    replicas: Annotated[int, Field(ge=1)] = 1
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0 picks a free one."""
    state_dir: Path = Field(default_factory=default_state_dir)
    """Run file, artifacts, journal, caches."""
    admin_key: SecretStr | None = None
    """Drawn at start and kept in the run file when not set."""
    start_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    redis: RedisSettings = RedisSettings()
    ray: RaySettings = RaySettings()
    engine: Annotated[EngineConfig, BeforeValidator(_only_fields_of(EngineConfig))] = EngineConfig()
    buffer: Annotated[WriterConfig, BeforeValidator(_only_fields_of(WriterConfig))] = WriterConfig()
    learner: Annotated[LearnerConfig, BeforeValidator(_only_fields_of(LearnerConfig))] = LearnerConfig()
    control: Annotated[ControlConfig, BeforeValidator(_only_fields_of(ControlConfig))] = ControlConfig()

    @property
    def served_name(self) -> str:
        """The model's name in the API."""
        if self.model_name is not None:
            return self.model_name
        return EMBEDDED_MODEL_NAME if self.target == "embedded" else Path(self.target).name

    @property
    def artifacts(self) -> str:
        """Root of the artifact file system."""
        return str(self.state_dir / "artifacts")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, file."""
        assert isinstance(init_settings, InitSettingsSource)
        flags = dict(init_settings.init_kwargs)
        from_file = flags.pop(_FILE_KEY, {})
        return (
            InitSettingsSource(settings_cls, flags),
            env_settings,
            InitSettingsSource(settings_cls, from_file),
        )


_FILE_KEY = "file contents"
"""How `load_settings` hands the file's contents to the sources; no flag can be called that."""


def load_settings(flags: Mapping[str, Any] | None = None, config: Path | None = None) -> Settings:
    """Read all sources. `flags` is nested like the tree; None values count as not given.

    ConfigError names the field and what it accepts.
    """
    try:
        sources: Any = {_FILE_KEY: _read_file(config), **_given(flags or {})}
        return Settings(**sources)
    except ValidationError as error:
        raise _as_config_error(error) from error
    except SettingsError as error:
        raise ConfigError("environment", str(error)) from error


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    nested = {key: _given(value) if isinstance(value, Mapping) else value for key, value in flags.items()}
    return {key: value for key, value in nested.items() if value is not None and value != {}}


def _read_file(config: Path | None) -> dict[str, Any]:
    path = config or DEFAULT_FILE
    if config is None and not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError("config", f"{path} can't be read: {error}") from error


def _as_config_error(error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return cause
    field = ".".join(str(part) for part in first["loc"]) or "settings"
    if first["type"] == "extra_forbidden":
        return ConfigError(field, "there is no such setting; `online-draft config show` lists all")
    message = first["msg"].removeprefix("Value error, ")
    return ConfigError(field, f"{message}, got {first['input']!r}")


def describe(settings: Settings) -> dict[str, Any]:
    """All values as plain data, the admin key hidden; for `config show`."""
    shown: dict[str, Any] = settings.model_dump(mode="json")
    return shown
