"""Seeded writers of prompts with reference answers, one module per domain; standard library only."""


def words(text: str, mark: str | None = None) -> tuple[str, ...]:
    """The words of a text, or its parts between marks."""
    return tuple(text.split(mark))
