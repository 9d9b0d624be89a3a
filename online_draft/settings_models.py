"""Several models in one service: what the entries of `models` may say, and what each amounts to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from online_draft.errors import ConfigError

FIELDS = (
    "target", "drafter", "device", "dtype", "threads", "replicas", "scaling", "engine", "buffer", "learner",
    "control",
)  # fmt: skip
"""Settings that a model may have of its own."""

_OF_ALL = frozenset({"ingresses", "max_ingresses", "streams_per_ingress"})
"""Of `scaling`: the ingresses serve all models."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One entry: its names, and the settings `given` where they differ from the top level's."""

    name: str
    aliases: tuple[str, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)

    def as_table(self) -> dict[str, Any]:
        """The entry as it is written."""
        return {"name": self.name, "aliases": list(self.aliases), **self.given}

    def leaves(self) -> Iterator[tuple[str, ...]]:
        """The paths of all single settings that it gives."""
        yield from _leaves(self.given, ())


def parse_models(raw: Any) -> tuple[ModelEntry, ...]:
    """Entries from a list of tables (`[[models]]`) or a table of tables (`[models.NAME]`). ConfigError."""
    if isinstance(raw, Mapping):
        raw = [_named(str(name), table) for name, table in raw.items()]
    if isinstance(raw, str | bytes) or not isinstance(raw, Sequence):
        raise ConfigError("models", f"must be tables, [[models]] or [models.NAME], got {raw!r}")
    entries = tuple(_parse(place, table) for place, table in enumerate(raw))
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"models.{name}.name", "two models have this name; each needs one of its own")
    check_aliases({entry.name: entry.aliases for entry in entries})
    return entries


def check_aliases(names: Mapping[str, Sequence[str]], field: str = "models.{name}.aliases") -> None:
    """ConfigError when an alias is a name of some model already."""
    taken = {name: name for name in names}
    for name, aliases in names.items():
        for alias in aliases:
            if alias in taken:
                raise ConfigError(
                    field.format(name=name), f"{alias!r} is a name of model {taken[alias]} already"
                )
            taken[alias] = name


def resolve(entry: ModelEntry, base: Any, hints: Mapping[str, Any]) -> dict[str, Any]:
    """The checked values of what an entry gives, over those of `base`; `hints` are the fields' types.

    ConfigError names the field as `models.NAME.field`.
    """
    found = {}
    for name, value in entry.given.items():
        merged = _merge(getattr(base, name), value)
        try:
            found[name] = TypeAdapter(hints[name]).validate_python(merged)
        except ValidationError as error:
            raise _of_entry(entry, name, error) from error
    return found


def field_error(entry: str, error: ConfigError) -> ConfigError:
    """An error about a model's own setting, with the path of that."""
    message = str(error).removeprefix(f"{error.field}: ")
    return ConfigError(f"models.{entry}.{error.field}", message)


def _named(name: str, table: Any) -> Any:
    if not isinstance(table, Mapping):
        raise ConfigError(f"models.{name}", f"must be a table, got {table!r}")
    if table.get("name", name) != name:
        raise ConfigError(
            f"models.{name}.name", f"the table's own name, {name!r}, is the model's; leave it out"
        )
    return {**table, "name": name}


def _parse(place: int, table: Any) -> ModelEntry:
    if isinstance(table, ModelEntry):
        return table
    if not isinstance(table, Mapping):
        raise ConfigError(f"models.{place}", f"must be a table, got {table!r}")
    name = table.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        accepted = "1 to 128 of A-Z a-z 0-9 . _ : / @ + -, beginning with a letter or digit"
        raise ConfigError(f"models.{place}.name", f"{accepted}; got {name!r}")
    aliases = table.get("aliases", ())
    if isinstance(aliases, str) or not isinstance(aliases, Sequence) or not all(map(_is_name, aliases)):
        raise ConfigError(f"models.{name}.aliases", f"must be a list of names, got {aliases!r}")
    given = {key: value for key, value in table.items() if key not in ("name", "aliases")}
    for key in given:
        if key not in FIELDS:
            known = ", ".join(("name", "aliases", *FIELDS))
            raise ConfigError(
                f"models.{name}.{key}", f"a model can't have that of its own; it can have: {known}"
            )
    scaling = given.get("scaling")
    for key in _OF_ALL & set(scaling if isinstance(scaling, Mapping) else ()):
        raise ConfigError(f"models.{name}.scaling.{key}", f"is of all models; set scaling.{key}")
    if given.get("target", "embedded") == "":
        raise ConfigError(f"models.{name}.target", "must be embedded, a directory or a Hub name, got ''")
    return ModelEntry(name, tuple(aliases), given)


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _merge(value: Any, over: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if not (isinstance(value, Mapping) and isinstance(over, Mapping)):
        return over
    return {**value, **{key: _merge(value.get(key), inner) for key, inner in over.items()}}


def _of_entry(entry: ModelEntry, name: str, error: ValidationError) -> ConfigError:
    found = error.errors(include_url=False)[0]
    cause = found.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return field_error(entry.name, cause)
    path = ".".join((name, *(str(part) for part in found["loc"])))
    given = found["input"] if found["loc"] else entry.given[name]
    message = found["msg"].removeprefix("Value error, ")
    return ConfigError(f"models.{entry.name}.{path}", f"{message}, got {given!r}")


def _leaves(given: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, value in given.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name)
