"""Whose records a drafter's weights have seen, so that an erasure can say which versions those are."""

from __future__ import annotations

from collections.abc import Iterable

from online_draft.core import Interaction
from online_draft.registry.manifest import tenant_mark


class Lineage:
    """Marks of tenants whose records trained the student or the versions that it comes from.

    A student that starts anew from the same champion keeps them: rather one too many.
    """

    def __init__(self) -> None:
        self._marks: set[str] = set()

    def start(self, inherited: Iterable[str]) -> None:
        """The student starts from a version with these marks."""
        self._marks = set(inherited)

    def note(self, records: Iterable[Interaction]) -> None:
        """These records were trained on."""
        self._marks.update(tenant_mark(tenant) for tenant in {record.tenant for record in records})

    def marks(self) -> tuple[str, ...]:
        """In order."""
        return tuple(sorted(self._marks))
