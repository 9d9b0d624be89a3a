"""Requests for Python functions over words and characters, and how every function is laid out."""

from __future__ import annotations

from random import Random

Task = tuple[str, str]


def function(name: str, arguments: str, doc: str, body: list[str]) -> str:
    lines = [f"def {name}({arguments}):", f'    """{doc}"""', *(f"    {line}" for line in body)]
    return "\n".join(lines)


def capital(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _word_filters(rng: Random) -> tuple[str, str, str]:
    letter, n = rng.choice("abcdefghilmnoprstuw"), rng.randrange(2, 13)
    return rng.choice(
        (
            (f"longer_than_{n}", f"words longer than {n} letters", f"len(word) > {n}"),
            (f"shorter_than_{n}", f"words shorter than {n} letters", f"len(word) < {n}"),
            (f"of_length_{n}", f"words with exactly {n} letters", f"len(word) == {n}"),
            (f"starting_with_{letter}", f"words that start with '{letter}'", f"word.startswith('{letter}')"),
            (f"ending_with_{letter}", f"words that end with '{letter}'", f"word.endswith('{letter}')"),
            (f"containing_{letter}", f"words that contain '{letter}'", f"'{letter}' in word"),
            (f"without_{letter}", f"words without '{letter}'", f"'{letter}' not in word"),
            ("capitalised", "capitalised words", "word.istitle()"),
            ("uppercase", "uppercase words", "word.isupper()"),
            ("palindromes", "words that are palindromes", "word == word[::-1]"),
        )
    )


WORD_TRANSFORMS = (
    ("", "the", "word"),
    ("", "the", "word"),
    ("lengths", "the lengths of the", "len(word)"),
    ("upper", "the upper case forms of the", "word.upper()"),
    ("lower", "the lower case forms of the", "word.lower()"),
    ("reversed", "the reversed forms of the", "word[::-1]"),
    ("first_letters", "the first letters of the", "word[0]"),
    ("last_letters", "the last letters of the", "word[-1]"),
    ("title", "the title case forms of the", "word.title()"),
)
WORD_AGGREGATES = (
    ("list", "a list of", "[{}]"),
    ("sorted", "a sorted list of", "sorted({})"),
    ("unique", "a set of", "set({})"),
    ("joined", "a space separated string of", "' '.join(str(part) for part in ({}))"),
    ("first", "the first in order of", "min(({}), default=None)"),
)


def about_words(rng: Random) -> Task:
    filter_name, kept, condition = _word_filters(rng)
    take_name, taken, expression = rng.choice(WORD_TRANSFORMS)
    name, words, call = rng.choice(WORD_AGGREGATES)
    argument, source, said = rng.choice(
        (("text", "text.split()", "a text"), ("words", "words", "a list of words"))
    )
    title = "_".join(part for part in (name, take_name, filter_name) if part)
    doc = f"returns {words} {taken} {kept} in {said}"
    comprehension = f"{expression} for word in {source} if {condition}"
    return doc, function(
        title, argument, capital(doc.replace("returns", "return")), [f"return {call.format(comprehension)}"]
    )


CHARACTER_KINDS = (
    ("vowels", "vowels", "c in 'aeiou'"),
    ("consonants", "consonants", "c.isalpha() and c not in 'aeiou'"),
    ("digits", "digits", "c.isdigit()"),
    ("letters", "letters", "c.isalpha()"),
    ("spaces", "spaces", "c.isspace()"),
    ("uppercase", "upper case letters", "c.isupper()"),
    ("lowercase", "lower case letters", "c.islower()"),
    ("punctuation", "punctuation marks", "c in '.,;:!?'"),
)


def about_characters(rng: Random) -> Task:
    name, kept, condition = rng.choice(CHARACTER_KINDS)
    if rng.random() < 0.5:
        letter = rng.choice("abcdefghijklmnoprstuvw")
        name, kept, condition = rng.choice(
            ((f"letter_{letter}", f"letters '{letter}'", f"c == '{letter}'"),
             (f"after_{letter}", f"characters after '{letter}' in the alphabet", f"c > '{letter}'"))
        )  # fmt: skip
    mark = rng.choice("*-_#+.")
    source, said = rng.choice(
        (("text", "a string"), ("line", "a line"), ("sentence", "a sentence"), ("word", "a word"))
    )
    forms = (
        ("counts the {kept} in {said}", "count_{name}", "return sum(1 for c in {source} if {condition})"),
        (
            "removes the {kept} from {said}",
            "remove_{name}",
            "return ''.join(c for c in {source} if not ({condition}))",
        ),
        (
            "keeps only the {kept} of {said}",
            "keep_{name}",
            "return ''.join(c for c in {source} if {condition})",
        ),
        (
            "replaces the {kept} in {said} with '{mark}'",
            "replace_{name}",
            "return ''.join('{mark}' if {condition} else c for c in {source})",
        ),
        (
            "finds the positions of {kept} in {said}",
            "find_{name}",
            "return [i for i, c in enumerate({source}) if {condition}]",
        ),
    )
    doc, title, body = (
        part.format(kept=kept, said=said, name=name, source=source, condition=condition, mark=mark)
        for part in rng.choice(forms)
    )
    verb, rest = doc.split(" ", 1)
    return doc, function(title, source, capital(f"{verb.removesuffix('s')} {rest}"), [body])
