"""The small tables that SQL questions are about: columns, how people say them, the values they take."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from online_draft.models.embedded.generators import words

CITIES = words(
    "Paris London Berlin Madrid Rome Oslo Lima Cairo Tokyo Dublin Vienna Prague Boston Denver Austin"
)
COUNTRIES = words(
    "France Spain Norway Peru Egypt Japan Ireland Austria Canada Brazil India Kenya Chile Italy"
)
PEOPLE = words(
    "Anna Ben Clara David Emma Felix Grace Hugo Iris Jack Kate Leo Maya Noah Olga Paul Rosa Sam Tina"
)
COLOURS = words("red blue green black white silver yellow grey")


@dataclass(frozen=True)
class Column:
    """One column: its name, how people say it, and the values it takes (words, or a range with a step)."""

    name: str
    said: str
    words: tuple[str, ...] = ()
    low: int = 0
    high: int = 0
    step: int = 1

    @property
    def numeric(self) -> bool:
        """Whether the column holds numbers."""
        return not self.words

    def value(self, rng: Random) -> str:
        """A SQL literal drawn from the column's values."""
        if self.words:
            return f"'{rng.choice(self.words)}'"
        return str(rng.randrange(self.low, self.high, self.step))


def _text(name: str, values: tuple[str, ...] | str) -> Column:
    return Column(name, name.replace("_", " "), words(values) if isinstance(values, str) else values)


def _number(name: str, low: int, high: int, step: int = 1, said: str = "") -> Column:
    return Column(name, said or name.replace("_", " "), (), low, high, step)


NAME, CITY, COUNTRY = _text("name", PEOPLE), _text("city", CITIES), _text("country", COUNTRIES)
PRICE, YEAR, AGE = _number("price", 5, 500, 5), _number("year", 1980, 2024), _number("age", 18, 80)
STATUS = _text("status", "open closed pending paid late cancelled")

TABLES: dict[str, tuple[Column, ...]] = {
    "employees": (
        NAME,
        AGE,
        _number("salary", 20000, 90000, 1000),
        CITY,
        _text("department", "sales finance support research marketing legal"),
    ),
    "customers": (NAME, AGE, CITY, COUNTRY, _number("orders", 1, 60), _text("level", "basic silver gold")),
    "products": (
        _text("name", "lamp chair desk phone mug bag clock pen shelf bottle"),
        PRICE,
        _number("stock", 0, 300, 5),
        _text("category", "home office garden toys sports kitchen"),
        _number("rating", 1, 6),
    ),
    "orders": (
        _text("customer", PEOPLE),
        _text("product", "lamp chair desk phone mug bag clock pen"),
        _number("quantity", 1, 40),
        _number("total", 10, 900, 10),
        STATUS,
        YEAR,
    ),
    "students": (
        NAME,
        AGE,
        _number("grade", 1, 13),
        _number("score", 30, 101),
        _text("school", "North South Central Lakeside Hillview"),
        CITY,
    ),
    "books": (
        _text("title", "Dawn Harbor Winter Echo Mirror River Stone"),
        _text("author", PEOPLE),
        YEAR,
        _number("pages", 80, 900, 10),
        PRICE,
        _text("genre", "novel poetry history travel science drama"),
    ),
    "movies": (
        _text("title", "Sunrise Shadow Comet Island Signal Garden"),
        _text("director", PEOPLE),
        YEAR,
        _number("minutes", 70, 200, 5, "length in minutes"),
        _number("rating", 1, 11),
        _text("genre", "comedy drama action horror family"),
    ),
    "cars": (
        _text("model", "Falcon Comet Breeze Atlas Nova Terra"),
        _text("colour", COLOURS),
        PRICE,
        YEAR,
        _number("mileage", 1000, 90000, 1000),
    ),
    "hotels": (
        _text("name", "Palace Lagoon Summit Orchid Crown"),
        CITY,
        _number("stars", 1, 6),
        _number("rooms", 10, 400, 10),
        PRICE,
    ),
    "flights": (
        _text("origin", CITIES),
        _text("destination", CITIES),
        PRICE,
        _number("seats", 40, 300, 10),
        _text("airline", "Skyway Bluejet Northair Sunwing"),
    ),
    "players": (
        NAME,
        _text("team", "Lions Hawks Bears Wolves Sharks Eagles"),
        _number("goals", 0, 50),
        AGE,
        _text("position", "goalkeeper defender midfielder forward"),
        COUNTRY,
    ),
    "patients": (
        NAME,
        AGE,
        _text("doctor", PEOPLE),
        _text("ward", "east west north south"),
        _number("days", 1, 60, 1, "days of stay"),
    ),
    "songs": (
        _text("title", "Rain Gold Home Fire Ocean Stars"),
        _text("artist", PEOPLE),
        _number("seconds", 90, 400, 5, "length in seconds"),
        YEAR,
        _number("plays", 100, 90000, 100),
    ),
    "rivers": (COUNTRY, _text("name", "Arda Belo Corin Delta Elwe"), _number("length", 50, 4000, 10)),
    "invoices": (
        _text("customer", PEOPLE),
        _number("amount", 20, 5000, 10),
        STATUS,
        _text("month", "January February March April May June July August"),
    ),
    "recipes": (
        _text("name", "soup stew salad pie curry pasta bread"),
        _number("calories", 80, 900, 10),
        _number("minutes", 5, 180, 5, "time in minutes"),
        _text("cuisine", "Italian Indian Greek Mexican French Thai"),
    ),
}
