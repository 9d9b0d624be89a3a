"""The model behind an endpoint."""

from __future__ import annotations

from dataclasses import dataclass

from online_draft.serve.api.errors import ApiError


@dataclass(frozen=True, slots=True)
class Model:
    """The one model behind this endpoint, as clients see it."""

    name: str
    fingerprint: str

    def check(self, name: str | None) -> None:
        """ApiError when a client names another model; None is this one."""
        if name is not None and name != self.name:
            message = f"model: there is no model {name[:100]!r}; this endpoint serves {self.name!r}"
            raise ApiError(404, message, "model", "model_not_found")
