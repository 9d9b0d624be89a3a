"""Questions about small tables, answered by one SQL statement that sqlite can parse."""

from __future__ import annotations

from random import Random

from online_draft.models.embedded.generators.tables import TABLES, Column

COMPARISONS = (
    (">", ("more than", "above", "greater than")),
    ("<", ("less than", "below", "under")),
    (">=", ("at least",)),
    ("<=", ("at most",)),
)
AGGREGATES = (
    ("AVG", ("average", "mean")),
    ("MAX", ("highest", "maximum", "largest")),
    ("MIN", ("lowest", "minimum", "smallest")),
    ("SUM", ("total", "sum of the")),
)


def _condition(rng: Random, columns: tuple[Column, ...]) -> tuple[str, str]:
    """A condition as (words after the plural noun, SQL)."""
    column = rng.choice(columns)
    value = column.value(rng)
    plain = value.strip("'")
    if not column.numeric:
        form = rng.randrange(6)
        if form == 0:
            return f"whose {column.said} is not {plain}", f"{column.name} <> {value}"
        if form == 1:
            letter = plain[0].upper()
            return f"whose {column.said} starts with {letter}", f"{column.name} LIKE '{letter}%'"
        if form == 2:
            other = rng.choice([word for word in column.words if word != plain])
            return f"whose {column.said} is {plain} or {other}", f"{column.name} IN ({value}, '{other}')"
        said = rng.choice((f"whose {column.said} is {plain}", f"with {column.said} {plain}"))
        return said, f"{column.name} = {value}"
    if rng.randrange(5) == 0:
        high = str(int(value) + column.step * rng.randrange(2, 20))
        return f"with {column.said} between {value} and {high}", f"{column.name} BETWEEN {value} AND {high}"
    if rng.randrange(6) == 0:
        return f"with {column.said} equal to {value}", f"{column.name} = {value}"
    operator, sayings = rng.choice(COMPARISONS)
    return f"with {column.said} {rng.choice(sayings)} {value}", f"{column.name} {operator} {value}"


def _filter(rng: Random, columns: tuple[Column, ...], chance: float) -> tuple[str, str]:
    """None to two conditions as (words with a leading space, SQL with a leading space)."""
    if rng.random() > chance:
        return "", ""
    words, sql = _condition(rng, columns)
    if len(columns) > 2 and rng.random() < 0.35:
        rest = tuple(column for column in columns if column.name not in sql.split())
        more, also = _condition(rng, rest)
        link = rng.choice(("and", "and", "or"))
        return f" {words} {link} {more}", f" WHERE {sql} {link.upper()} {also}"
    return f" {words}", f" WHERE {sql}"


def _select(rng: Random, table: str, columns: tuple[Column, ...]) -> tuple[str, str]:
    words, where = _filter(rng, columns, 0.9)
    kind = rng.randrange(4)
    if kind == 0:
        start = rng.choice(("Show all", "List all", "Find all", "Get all"))
        return f"{start} {table}{words}.", f"SELECT * FROM {table}{where};"
    if kind == 1:
        start = rng.choice((f"How many {table} are there", f"Count the {table}"))
        mark = "?" if start.startswith("How") else "."
        return f"{start}{words}{mark}", f"SELECT COUNT(*) FROM {table}{where};"
    first = rng.choice(columns)
    if kind == 2:
        start = rng.choice(("List the distinct", "Show the different", "What are the different"))
        mark = "?" if start.startswith("What") else "."
        return (
            f"{start} values of {first.said} for {table}{words}{mark}",
            f"SELECT DISTINCT {first.name} FROM {table}{where};",
        )
    second = rng.choice([column for column in columns if column is not first])
    start = rng.choice(("Show the", "List the", "Give me the", "What are the"))
    mark = "?" if start.startswith("What") else "."
    if rng.random() < 0.5:
        return f"{start} {first.said} of {table}{words}{mark}", f"SELECT {first.name} FROM {table}{where};"
    return (
        f"{start} {first.said} and {second.said} of {table}{words}{mark}",
        f"SELECT {first.name}, {second.name} FROM {table}{where};",
    )


def _aggregate(rng: Random, table: str, columns: tuple[Column, ...]) -> tuple[str, str]:
    number = rng.choice([column for column in columns if column.numeric])
    function, sayings = rng.choice(AGGREGATES)
    rest = tuple(column for column in columns if column is not number)
    words, where = _filter(rng, rest, 0.75)
    start, mark = rng.choice((("What is the", "?"), ("Find the", "."), ("Compute the", ".")))
    return (
        f"{start} {rng.choice(sayings)} {number.said} of {table}{words}{mark}",
        f"SELECT {function}({number.name}) FROM {table}{where};",
    )


def _top(rng: Random, table: str, columns: tuple[Column, ...]) -> tuple[str, str]:
    number = rng.choice([column for column in columns if column.numeric])
    rest = tuple(column for column in columns if column is not number)
    shown = rng.choice(rest)
    words, where = _filter(rng, rest, 0.4)
    down = rng.random() < 0.6
    count, order = rng.randrange(2, 21), "DESC" if down else "ASC"
    if rng.random() < 0.4:
        way = "from highest to lowest" if down else "from lowest to highest"
        return (
            f"List the {shown.said} of {table}{words}, ordered by {number.said} {way}.",
            f"SELECT {shown.name} FROM {table}{where} ORDER BY {number.name} {order};",
        )
    extreme = "highest" if down else "lowest"
    among = " among those" if words else ""
    return (
        f"Show the {shown.said} of the {count} {table} with the {extreme} {number.said}{among}{words}.",
        f"SELECT {shown.name} FROM {table}{where} ORDER BY {number.name} {order} LIMIT {count};",
    )


def _group(rng: Random, table: str, columns: tuple[Column, ...]) -> tuple[str, str]:
    key = rng.choice([column for column in columns if not column.numeric])
    numbers = [column for column in columns if column.numeric]
    rest = tuple(column for column in columns if column is not key)
    if rng.random() < 0.4:
        words, where = _filter(rng, rest, 0.5)
        least = rng.randrange(2, 30)
        if rng.random() < 0.5:
            return (
                f"How many {table}{words} are there for each {key.said}?",
                f"SELECT {key.name}, COUNT(*) FROM {table}{where} GROUP BY {key.name};",
            )
        return (
            f"Which values of {key.said} have more than {least} {table}{words}?",
            f"SELECT {key.name} FROM {table}{where} GROUP BY {key.name} HAVING COUNT(*) > {least};",
        )
    number = rng.choice(numbers)
    function, sayings = rng.choice(AGGREGATES)
    words, where = _filter(rng, tuple(column for column in rest if column is not number), 0.4)
    return (
        f"For each {key.said}, find the {rng.choice(sayings)} {number.said} of {table}{words}.",
        f"SELECT {key.name}, {function}({number.name}) FROM {table}{where} GROUP BY {key.name};",
    )


def _change(rng: Random, table: str, columns: tuple[Column, ...]) -> tuple[str, str]:
    kind = rng.randrange(3)
    if kind == 0:
        words, where = _filter(rng, columns, 1.0)
        return f"{rng.choice(('Delete', 'Remove'))} all {table}{words}.", f"DELETE FROM {table}{where};"
    if kind == 1:
        column = rng.choice(columns)
        words, where = _filter(rng, tuple(c for c in columns if c is not column), 1.0)
        value = column.value(rng)
        plain = value.strip("'")
        return (
            f"Set the {column.said} to {plain} for all {table}{words}.",
            f"UPDATE {table} SET {column.name} = {value}{where};",
        )
    chosen = columns[: rng.randrange(2, min(4, len(columns)) + 1)]
    values = [column.value(rng) for column in chosen]
    said = " and ".join(f"{c.said} {v}" for c, v in zip(chosen, values, strict=True)).replace("'", "")
    names = ", ".join(column.name for column in chosen)
    return (
        f"Add a row to {table} with {said}.",
        f"INSERT INTO {table} ({names}) VALUES ({', '.join(values)});",
    )


def write(rng: Random) -> tuple[str, str]:
    """One (question, statement) pair; about two thirds of the questions carry the table's schema."""
    table = rng.choice(tuple(TABLES))
    columns = list(TABLES[table])
    rng.shuffle(columns)
    numeric = next(column for column in columns if column.numeric)
    text = next(column for column in columns if not column.numeric)
    others = [column for column in columns if column is not numeric and column is not text]
    kept = [numeric, text, *others[: rng.randrange(1, 4)]]
    rng.shuffle(kept)
    maker = rng.choice((_select, _select, _aggregate, _top, _group, _change))
    question, statement = maker(rng, table, tuple(kept))
    if rng.random() < 0.65:
        names = ", ".join(column.name for column in kept)
        schema = rng.choice((f"Table {table}({names}).", f"Given the table {table} ({names})."))
        return f"{schema} {question}", statement
    start = rng.choice(("", "", "Write a SQL query. ", "In SQL: "))
    return f"{start}{question}", statement
