"""Requests for small Python functions with compact documented answers: filter, transform, aggregate."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from online_draft.models.embedded.generators import words
from online_draft.models.embedded.generators.python_text import (
    Task,
    about_characters,
    about_words,
    capital,
    function,
)

STARTS = (
    "Write a Python function that",
    "Write a Python function that",
    "Write a function that",
    "Implement a Python function that",
    "Please write a short Python function that",
    "In Python, define a function that",
)


def _number_filters(rng: Random) -> tuple[str, str, str]:
    """(name, words, condition on x) over numbers."""
    k = rng.randrange(2, 30)
    name, words, condition = rng.choice(
        (
            ("even", "even numbers", "x % 2 == 0"),
            ("odd", "odd numbers", "x % 2 != 0"),
            ("positive", "positive numbers", "x > 0"),
            ("negative", "negative numbers", "x < 0"),
            ("nonzero", "non-zero numbers", "x != 0"),
            (f"above_{k}", f"numbers greater than {k}", f"x > {k}"),
            (f"below_{k}", f"numbers less than {k}", f"x < {k}"),
            (f"multiples_of_{k}", f"numbers divisible by {k}", f"x % {k} == 0"),
            (f"from_{k}_to_{2 * k}", f"numbers between {k} and {2 * k}", f"{k} <= x <= {2 * k}"),
        )
    )
    if rng.random() < 0.3:
        m = rng.randrange(2, 60)
        form = rng.randrange(3)
        if form == 0:
            return f"{name}_not_{m}", f"{words} other than {m}", f"{condition} and x != {m}"
        if form == 1:
            return f"{name}_up_to_{m}", f"{words} up to {m}", f"{condition} and x <= {m}"
        return f"{name}_without_{m}", f"{words} not divisible by {m}", f"{condition} and x % {m} != 0"
    return name, words, condition


def _number_transforms(rng: Random) -> tuple[str, str, str]:
    """(name, words for what is taken of the numbers, expression in x)."""
    k = rng.randrange(2, 30)
    return rng.choice(
        (
            ("", "the", "x"),
            ("", "the", "x"),
            ("squares", "the squares of the", "x * x"),
            ("cubes", "the cubes of the", "x ** 3"),
            ("doubles", "the doubles of the", "2 * x"),
            ("halves", "the halves of the", "x / 2"),
            ("absolute", "the absolute values of the", "abs(x)"),
            (f"plus_{k}", f"{k} plus each of the", f"x + {k}"),
            (f"times_{k}", f"{k} times each of the", f"x * {k}"),
            (f"mod_{k}", f"the remainders modulo {k} of the", f"x % {k}"),
            ("last_digits", "the last digits of the", "abs(x) % 10"),
        )
    )


AGGREGATES: tuple[tuple[str, str, str], ...] = (
    ("sum", "the sum of", "sum({})"),
    ("largest", "the largest of", "max(({}), default=None)"),
    ("smallest", "the smallest of", "min(({}), default=None)"),
    ("list", "a list of", "[{}]"),
    ("sorted", "a sorted list of", "sorted({})"),
    ("descending", "a list in descending order of", "sorted(({}), reverse=True)"),
    ("unique", "a set of", "set({})"),
    ("tuple", "a tuple of", "tuple({})"),
)


def _list_of_numbers(rng: Random) -> Task:
    filter_name, kept, condition = _number_filters(rng)
    take_name, taken, expression = _number_transforms(rng)
    name, words, call = rng.choice(AGGREGATES)
    title = "_".join(part for part in (name, take_name, filter_name) if part)
    argument = rng.choice(("numbers", "values", "items"))
    doc = f"returns {words} {taken} {kept} in a list"
    comprehension = f"{expression} for x in {argument} if {condition}"
    if rng.random() < 0.3 and name in ("sum", "list", "unique"):
        start, add = {"sum": ("0", "result += {}"), "list": ("[]", "result.append({})")}.get(
            name, ("set()", "result.add({})")
        )
        body = [
            f"result = {start}",
            f"for x in {argument}:",
            f"    if {condition}:",
            f"        {add.format(expression)}",
            "return result",
        ]
        return f"{doc}, using a loop", function(
            title, argument, capital(doc.replace("returns", "return")), body
        )
    body = [f"return {call.format(comprehension)}"]
    return doc, function(title, argument, capital(doc.replace("returns", "return")), body)


def _count_numbers(rng: Random) -> Task:
    name, kept, condition = _number_filters(rng)
    source, said = rng.choice((("numbers", "a list"), ("values", "a tuple"), ("row", "a row of a table")))
    form = rng.randrange(4)
    if form == 0:
        doc, body = f"counts the {kept} in {said}", f"return sum(1 for x in {source} if {condition})"
        title = f"count_{name}"
    elif form == 1:
        doc, body = f"checks whether {said} has any {kept}", f"return any({condition} for x in {source})"
        title = f"has_{name}"
    elif form == 2:
        doc, body = f"checks whether {said} has only {kept}", f"return all({condition} for x in {source})"
        title = f"only_{name}"
    else:
        doc = f"finds the positions of the {kept} in {said}"
        body = f"return [i for i, x in enumerate({source}) if {condition}]"
        title = f"positions_{name}"
    said_as_order = "".join((doc.split()[0].removesuffix("s"), " ", doc.split(" ", 1)[1]))
    return doc, function(title, source, capital(said_as_order), [body])


THINGS = words("prices scores ages grades weights points votes sales hours costs heights speeds")
OWNERS = words("products players people students parcels teams cities shops workers items plants cars")


def _dictionary(rng: Random) -> Task:
    value, k = rng.choice(THINGS), rng.randrange(2, 100)
    owner = rng.choice(OWNERS)
    sign, words, short = rng.choice(
        (
            (">", "above", "above"),
            ("<", "below", "below"),
            (">=", "of at least", "min"),
            ("<=", "of at most", "max"),
        )
    )
    said = f"a dictionary of {owner} and their {value}"
    single = value.removesuffix("s")
    forms = (
        (f"returns the {owner} with {value} {words} {k} from {said}", f"{owner}_{short}_{k}",
         f"return [key for key, {single} in {value}.items() if {single} {sign} {k}]"),
        (f"keeps the entries with {value} {words} {k} of {said}", f"keep_{short}_{k}",
         f"return {{key: {single} for key, {single} in {value}.items() if {single} {sign} {k}}}"),
        (f"counts the {owner} with {value} {words} {k} in {said}", f"count_{short}_{k}",
         f"return sum(1 for {single} in {value}.values() if {single} {sign} {k})"),
        (f"adds {k} to all {value} in {said}", f"add_{k}",
         f"return {{key: {single} + {k} for key, {single} in {value}.items()}}"),
        (f"returns the {owner} sorted by {value} from {said}", f"sort_{owner}",
         f"return sorted({value}, key={value}.get)"),
        (f"returns the average of the {value} in {said}", f"average_{value}",
         f"return sum({value}.values()) / len({value})"),
        (f"returns the total of the {value} {words} {k} in {said}", f"total_{short}_{k}",
         f"return sum({single} for {single} in {value}.values() if {single} {sign} {k})"),
    )  # fmt: skip
    doc, title, body = rng.choice(forms)
    verb, rest = doc.split(" ", 1)
    return doc, function(title, value, capital(f"{verb.removesuffix('s')} {rest}"), [body])


def _numbers(rng: Random) -> Task:
    k, m = rng.randrange(2, 60), rng.randrange(2, 20)
    name, kept, condition = _number_filters(rng)
    forms = (
        (f"adds up the {kept} from 1 to n", f"sum_{name}", "n",
         ["total = 0", "for x in range(1, n + 1):", f"    if {condition}:", "        total += x",
          "return total"]),
        (f"lists the {kept} up to n", f"list_{name}", "n",
         [f"return [x for x in range(n + 1) if {condition}]"]),
        (f"returns the first n multiples of {k}", f"multiples_of_{k}", "n",
         [f"return [{k} * i for i in range(1, n + 1)]"]),
        (f"checks whether a number is divisible by {k} and by {m}", f"divisible_by_{k}_and_{m}", "n",
         [f"return n % {k} == 0 and n % {m} == 0"]),
        (f"checks whether a number is divisible by {k} or by {m}", f"divisible_by_{k}_or_{m}", "n",
         [f"return n % {k} == 0 or n % {m} == 0"]),
        (f"limits a number to the range from {k} to {k + m}", f"clamp_{k}_{k + m}", "x",
         [f"return max({k}, min({k + m}, x))"]),
        (f"rounds a number down to a multiple of {k}", f"round_down_{k}", "x", [f"return x // {k} * {k}"]),
        (f"multiplies a number by {k} and adds {m}", f"times_{k}_plus_{m}", "x", [f"return x * {k} + {m}"]),
        (f"splits a list into parts of {m} items", f"parts_of_{m}", "items",
         [f"return [items[i:i + {m}] for i in range(0, len(items), {m})]"]),
        (f"returns every item of a list at a multiple of {m}", f"every_{m}", "items",
         [f"return items[::{m}]"]),
        (f"moves the first {m} items of a list to the end", f"rotate_{m}", "items",
         [f"return items[{m}:] + items[:{m}]"]),
        (f"returns the {m} largest numbers of a list", f"largest_{m}", "numbers",
         [f"return sorted(numbers, reverse=True)[:{m}]"]),
        (f"computes n to the power of {m} with a loop", f"power_{m}", "n",
         ["result = 1", f"for _ in range({m}):", "    result *= n", "return result"]),
        ("computes the factorial of n", "factorial", "n",
         ["result = 1", "for i in range(2, n + 1):", "    result *= i", "return result"]),
        ("computes the sum of the digits of a number", "digit_sum", "n",
         ["return sum(int(d) for d in str(abs(n)))"]),
        ("checks whether a number is prime", "is_prime", "n",
         ["if n < 2:", "    return False", "return all(n % i for i in range(2, int(n ** 0.5) + 1))"]),
        ("returns the n-th Fibonacci number", "fibonacci", "n",
         ["a, b = 0, 1", "for _ in range(n):", "    a, b = b, a + b", "return a"]),
        ("finds the greatest common divisor of two numbers", "gcd", "a, b",
         ["while b:", "    a, b = b, a % b", "return a"]),
    )  # fmt: skip
    doc, title, arguments, body = rng.choice(forms)
    verb, rest = doc.split(" ", 1)
    order = verb.removesuffix("s")
    return doc, function(title, arguments, capital(f"{order} {rest}"), body)


TASKS: tuple[Callable[[Random], Task], ...] = (
    _list_of_numbers, _list_of_numbers, _count_numbers, about_words, about_words, about_characters,
    _dictionary, _numbers,
)  # fmt: skip


def write(rng: Random) -> tuple[str, str]:
    """One (request, function) pair; the function is a complete module that compiles."""
    doc, code = rng.choice(TASKS)(rng)
    return f"{rng.choice(STARTS)} {doc}.", code
