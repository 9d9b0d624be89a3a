"""The models behind an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter

from online_draft.serve.api.backend import Backend
from online_draft.serve.api.errors import ApiError
from online_draft.serve.api.jobs import Caller
from online_draft.serve.api.prompts import PromptEncoder


@dataclass(slots=True)
class Model:
    """A model as clients see it: by its name or one of its aliases. The fingerprint changes with updates of
    the target."""

    name: str
    fingerprint: str
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All by which it may be called, its own first."""
        return (self.name, *self.aliases)


@dataclass(frozen=True, slots=True)
class Served:
    """A model with what generates for it, what knows its tokens, and its admin routes if there are such."""

    model: Model
    backend: Backend
    encoder: PromptEncoder
    admin: APIRouter | None = None


class Catalogue:
    """The models of an endpoint, of which there is one at least; the first is meant where none is named."""

    def __init__(self, served: Sequence[Served]) -> None:
        self.all = tuple(served)
        self._by_name = {name: each for each in self.all for name in each.model.names}

    def open_to(self, caller: Caller) -> list[Served]:
        """Those that a caller may use."""
        return [each for each in self.all if caller.may_use(each.model.names)]

    def find(self, name: str | None, caller: Caller) -> Served:
        """The model of a name, for None the first that the caller may use.

        ApiError 404 for a name that isn't known, 403 for a model that isn't for this caller.
        """
        usable = self.open_to(caller)
        if name is None and usable:
            return usable[0]
        found = None if name is None else self._by_name.get(name)
        if found is not None and found in usable:
            return found
        names = ", ".join(repr(each.model.name) for each in usable) or "none"
        if found is None and name is not None:
            message = f"model: there is no model {name[:100]!r}; this endpoint serves {names}"
            raise ApiError(404, message, "model", "model_not_found")
        asked = "any model here" if name is None else f"model {name[:100]!r}"
        message = f"model: this key does not have access to {asked}; it may use {names}"
        raise ApiError(403, message, "model", "model_not_found")
