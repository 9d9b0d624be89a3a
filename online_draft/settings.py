"""One tree of settings: flags over environment over file over defaults.

Environment variables start with `ONLINE_DRAFT_` and go deeper with `__`: `ONLINE_DRAFT_ENGINE__TREE_NODES=8`.
The file is TOML: `--config`, else `online-draft.toml` in the current directory if it exists.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints
from urllib.parse import quote, unquote

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_serializer,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
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
from online_draft.logs import LogConfig
from online_draft.serve.access.config import AccessConfig
from online_draft.serve.access.key_file import DEFAULT_NAME as KEYS_NAME
from online_draft.serve.fleet.scaling import ScalingConfig
from online_draft.settings_models import ModelEntry, check_aliases, parse_models, resolve
from online_draft.settings_sections import (
    RaySettings,
    RedisSettings,
    TlsSettings,
    WebhookSettings,
    only_fields_of,
)

ENV_PREFIX = "ONLINE_DRAFT_"
DEFAULT_FILE = Path("online-draft.toml")
EMBEDDED_MODEL_NAME = "online-draft"

LOG_NAME = "service.log"
"""In the state directory."""

REALMS = "models"
"""Directory of the further models' state, in that of the first."""


def default_state_dir() -> Path:
    """`$XDG_STATE_HOME/online-draft`, else `~/.local/share/online-draft`."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "online-draft"


class Settings(BaseSettings):
    """Everything that can be set. Frozen once read."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )

    target: str = "embedded"
    """`embedded`, a Hugging Face directory or a Hub name."""
    model_name: str | None = None
    """How clients name the model; by default the last part of the target's name."""
    aliases: tuple[str, ...] = ()
    """Further names of the model for clients."""
    models: Annotated[tuple[ModelEntry, ...], BeforeValidator(parse_models)] = ()
    """Several models instead of one: `[[models]]` or `[models.NAME]`, with settings of their own."""
    drafter: str | None = None
    """What a fresh journal starts with: `baseline`, `narrow`, `untrained`, `ngram` (no heads) or a
    directory."""
    device: Annotated[str, Field(pattern=r"^(cpu|cuda)$")] = "cpu"
    """Where the target runs: `cpu` or `cuda`."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    """In which numbers the target computes."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of one replica: torch's, and those of compiled kernels unless `engine.threads` is set. By
    default torch takes its own number, and a probe finds the kernels'."""
    replicas: Annotated[int, Field(ge=1)] = 1
    """Engines, each in a process of its own."""
    host: str = "127.0.0.1"
    """Address to listen on. Other addresses than this machine's own need API keys."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 picks a free one."""
    state_dir: Path = Field(default_factory=default_state_dir)
    """Run file, artifacts, journal, caches."""
    admin_key: SecretStr | None = None
    """Drawn at start and kept in the run file when not set."""
    start_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """How long the replicas may take to come up."""
    tls: TlsSettings = TlsSettings()
    access: Annotated[AccessConfig, BeforeValidator(only_fields_of(AccessConfig))] = AccessConfig()
    log: Annotated[LogConfig, BeforeValidator(only_fields_of(LogConfig))] = LogConfig()
    redis: RedisSettings = RedisSettings()
    ray: RaySettings = RaySettings()
    scaling: Annotated[ScalingConfig, BeforeValidator(only_fields_of(ScalingConfig))] = ScalingConfig()
    engine: Annotated[EngineConfig, BeforeValidator(only_fields_of(EngineConfig))] = EngineConfig()
    buffer: Annotated[WriterConfig, BeforeValidator(only_fields_of(WriterConfig))] = WriterConfig()
    learner: Annotated[LearnerConfig, BeforeValidator(only_fields_of(LearnerConfig))] = LearnerConfig()
    control: Annotated[ControlConfig, BeforeValidator(only_fields_of(ControlConfig))] = ControlConfig()
    webhooks: WebhookSettings = WebhookSettings()

    _realm: str = PrivateAttr("")

    @property
    def served_name(self) -> str:
        """The model's name in the API."""
        if self.model_name is not None:
            return self.model_name
        return EMBEDDED_MODEL_NAME if self.target == "embedded" else Path(self.target).name

    @property
    def each(self) -> tuple[Settings, ...]:
        """The settings of every model, as if it were the only one; the first is the default. ConfigError."""
        if not self.models:
            return (self,)
        hints = get_type_hints(type(self), include_extras=True)
        found: list[Settings] = []
        for entry in self.models:
            own = {"model_name": entry.name, "aliases": entry.aliases, "models": ()}
            model = self.model_copy(update={**resolve(entry, self, hints), **own})
            model._realm = quote(entry.name, safe="") if found else ""
            found.append(model)
        return tuple(found)

    def of(self, name: str | None) -> Settings:
        """Those of a model by one of its names, None for the first. Further models that these settings don't
        list are known by what they left in the state directory. ConfigError when there is no such model."""
        models = self.each
        if name is None:
            return models[0]
        for model in models:
            if name in (model.served_name, *model.aliases):
                return model
        for model in self.further:
            if model.served_name == name:
                return model
        known = ", ".join(dict.fromkeys(model.served_name for model in (*models, *self.further)))
        raise ConfigError("--model", f"{name!r} is none of {known}; leave it out for the first")

    @property
    def further(self) -> list[Settings]:
        """Those of models but the first that have left something in the state directory, listed or not."""
        listed = {model.realm: model for model in self.each[1:]}
        found = []
        for directory in sorted((self.state_dir / "artifacts" / REALMS).glob("*/")):
            model = listed.get(directory.name)
            if model is None:
                model = self.model_copy(update={"model_name": unquote(directory.name), "models": ()})
                model._realm = directory.name
            found.append(model)
        return found

    @property
    def realm(self) -> str:
        """What keeps a further model's state apart from the first one's, whose realm is ""."""
        return self._realm

    @property
    def artifacts(self) -> str:
        """Root of the artifact file system."""
        return str(self._of_realm("artifacts"))

    @property
    def cache_dir(self) -> Path:
        """Where fetched drafters lie."""
        return self._of_realm("cache")

    @property
    def keys_file(self) -> Path:
        """The file of API keys."""
        given = self.access.keys_file
        return (self.state_dir / KEYS_NAME if given is None else Path(given).expanduser()).absolute()

    @property
    def log_file(self) -> Path:
        """Where all processes log."""
        given = self.log.file
        return (self.state_dir / LOG_NAME if given is None else Path(given).expanduser()).absolute()

    def _of_realm(self, name: str) -> Path:
        directory = self.state_dir / name
        return directory / REALMS / self._realm if self._realm else directory

    @field_serializer("models")
    def _write_models(self, models: tuple[ModelEntry, ...]) -> list[dict[str, Any]]:
        return [entry.as_table() for entry in models]

    @model_validator(mode="after")
    def _check_models(self) -> Settings:
        if not self.models:
            check_aliases({self.served_name: self.aliases}, "aliases")
            return self
        for name in ("model_name", "aliases"):
            if getattr(self, name):
                raise ConfigError(
                    name, "is of a service with one model; with `models` each has its own names"
                )
        _ = self.each
        return self

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
        raise as_config_errors(error)[0] from error
    except SettingsError as error:
        raise ConfigError("environment", str(error)) from error


Layers = list[tuple[str, Mapping[str, Any]]]
"""Each source's name and what it gives, nested like the tree; the first that gives a value wins."""


def read_layers(flags: Mapping[str, Any] | None = None, config: Path | None = None) -> Layers:
    """What each source says. ConfigError when one can't be read."""
    try:
        environment = EnvSettingsSource(Settings)()
    except SettingsError as error:
        raise ConfigError("environment", str(error)) from error
    return [("flag", _given(flags or {})), ("env", environment), ("file", _read_file(config))]


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


def as_config_errors(error: ValidationError) -> list[ConfigError]:
    """Each thing that pydantic found wrong, with the field's dotted name and what it accepts."""
    return [_as_config_error(dict(found)) for found in error.errors(include_url=False)]


def _as_config_error(found: dict[str, Any]) -> ConfigError:
    cause = found.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return cause
    field = ".".join(str(part) for part in found["loc"]) or "settings"
    if found["type"] == "extra_forbidden":
        return ConfigError(field, "there is no such setting; `online-draft config show` lists all")
    message = found["msg"].removeprefix("Value error, ")
    secret = field in ("admin_key", "access") or field.startswith(("access.keys", "webhooks"))
    shown = "what may be a secret" if secret else repr(found["input"])
    return ConfigError(field, f"{message}, got {shown}")


def describe(settings: Settings) -> dict[str, Any]:
    """All values as plain data, admin key and webhooks hidden; for `config show`."""
    shown: dict[str, Any] = settings.model_dump(mode="json")
    return shown
