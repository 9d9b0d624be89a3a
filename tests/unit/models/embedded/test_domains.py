"""The generators of prompts and reference answers: fixed by the seed, varied, and right."""

from __future__ import annotations

import re
import sqlite3
from itertools import islice

import pytest

from online_draft.models.embedded.domains import (
    DOMAINS,
    HELDOUT_SHARE,
    examples,
    generate,
    prompts,
    split_of,
)

COUNT = 3000


@pytest.mark.parametrize("domain", DOMAINS)
def test_equal_seeds_give_equal_text(domain: str) -> None:
    assert [generate(domain, n) for n in range(50)] == [generate(domain, n) for n in range(50)]
    assert prompts(domain, 20, seed=3) == prompts(domain, 20, seed=3)
    assert prompts(domain, 20, seed=3) != prompts(domain, 20, seed=4)


@pytest.mark.parametrize("domain", DOMAINS)
def test_prompts_are_varied(domain: str) -> None:
    assert len({generate(domain, n).prompt for n in range(COUNT)}) > 0.8 * COUNT


@pytest.mark.parametrize("domain", DOMAINS)
def test_prompts_do_not_repeat_and_stay_in_their_split(domain: str) -> None:
    held_out = prompts(domain, 100, seed=1, split="heldout")
    assert len(set(held_out)) == 100
    assert all(split_of(prompt) == "heldout" for prompt in held_out)
    train = {example.prompt for example in islice(examples(domain, 1, "train"), COUNT)}
    assert train.isdisjoint(held_out)


def test_held_out_share_is_as_stated() -> None:
    share = sum(generate("story", n).split == "heldout" for n in range(COUNT)) / COUNT
    assert abs(share - HELDOUT_SHARE) < 0.015


def test_unknown_domain_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="domain: 'poetry' is not one of sql"):
        generate("poetry", 0)


def test_statements_parse_in_sqlite() -> None:
    database = sqlite3.connect(":memory:")
    for n in range(COUNT):
        answer = generate("sql", n).answer
        assert answer.endswith(";") and sqlite3.complete_statement(answer)
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            database.execute("EXPLAIN " + answer)
    database.close()


def test_statements_use_only_columns_of_a_shown_schema() -> None:
    for n in range(COUNT):
        example = generate("sql", n)
        schema = re.match(r"(?:Table|Given the table) (\w+) ?\((.*?)\)\.", example.prompt)
        if schema is None:
            continue
        database = sqlite3.connect(":memory:")
        database.execute(f"CREATE TABLE {schema[1]} ({schema[2]})")
        database.execute("EXPLAIN " + example.answer)
        database.close()


def test_functions_compile_and_define_one_documented_name() -> None:
    for n in range(COUNT):
        example = generate("python", n)
        names: dict[str, object] = {}
        exec(compile(example.answer, "answer", "exec"), names)  # noqa: S102 - our own text
        (made,) = (value for name, value in names.items() if name != "__builtins__")
        assert callable(made) and made.__doc__, example


@pytest.mark.parametrize(
    ("wanted", "argument", "result"),
    [
        ("counts the vowels in a string", "banana", 3),
        ("computes the factorial of n", 5, 120),
        ("checks whether a number is prime", 91, False),
        ("computes the sum of the digits of a number", 409, 13),
        ("returns the n-th Fibonacci number", 10, 55),
        ("returns the sum of the squares of the odd numbers in a list", [1, 2, 3], 10),
        ("returns a list of the lengths of the capitalised words in a text", "Ann and Bob", [3, 3]),
        ("removes the digits from a string", "a1b2", "ab"),
    ],
)
def test_functions_do_what_was_asked(wanted: str, argument: object, result: object) -> None:
    answer = next(
        example.answer for n in range(100_000) if wanted in (example := generate("python", n)).prompt
    )
    names: dict[str, object] = {}
    exec(answer, names)  # noqa: S102 - our own text
    (made,) = (value for name, value in names.items() if name != "__builtins__")
    assert callable(made)
    assert made(argument) == result


def test_equations_hold_and_the_last_one_gives_the_answer() -> None:
    for n in range(COUNT):
        answer = generate("math", n).answer
        equations = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", answer)
        assert 2 <= len(equations) <= 4
        for left, sign, right, result in equations:
            a, b, c = int(left), int(right), int(result)
            assert {"+": a + b == c, "-": a - b == c, "*": a * b == c, "/": a == b * c}[sign], answer
        assert answer.endswith(f"\nThe answer is {equations[-1][3]}.")


def test_numbers_of_the_first_equation_come_from_the_problem() -> None:
    for n in range(500):
        example = generate("math", n)
        numbers = set(re.findall(r"\d+", example.prompt)) | {"2", "3", "4"}
        match = re.search(r"(\d+) [-+*/] (\d+)", example.answer)
        assert match is not None and {match[1], match[2]} <= numbers, example


def test_stories_have_a_few_sentences_and_an_end() -> None:
    for n in range(COUNT):
        example = generate("story", n)
        assert 5 <= len(re.findall(r"[.!?]\"?(?= |$)", example.answer)) <= 12, example.answer
        assert example.answer[-1] in ".!"
        assert "  " not in example.answer and "None" not in example.answer
