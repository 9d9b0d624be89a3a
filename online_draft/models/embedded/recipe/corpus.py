"""Training text: the public sets made readable, mixed with our own generated examples, evenly by domain."""

from __future__ import annotations

import ast
import bz2
import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from online_draft.models.embedded.domains import DOMAINS, Example, Split, generate
from online_draft.models.embedded.generators import words

Messages = list[tuple[str, str]]

REAL_SHARE = {"sql": 0.35, "math": 0.35, "python": 0.25, "story": 0.4}
"""Share of examples of a domain taken from the public sets; the rest is generated."""

SYSTEMS = {
    "sql": ("You answer with one SQL statement.", "You are a database assistant."),
    "math": ("You solve word problems step by step.", "You are a patient maths teacher."),
    "python": ("You write short Python functions.", "You are a Python programmer."),
    "story": ("You tell short stories for children.", "You are a storyteller."),
}
ANY_SYSTEM = ("You are a helpful assistant.", "Be helpful and brief.", "You are a small language model.")
TALK = (
    ("Hello!", "Hello! Ask me for a SQL query, a word problem, a Python function or a short story."),
    ("Hi", "Hi! I can write SQL, solve small word problems, write Python functions and tell stories."),
    (
        "Who are you?",
        "I am a small language model that writes SQL, small sums, Python functions and stories.",
    ),
    (
        "What can you do?",
        "I can write SQL queries, solve word problems, write Python functions and tell stories.",
    ),
    ("Thank you!", "You are welcome!"),
    ("Thanks", "You are welcome!"),
    ("Good morning", "Good morning! What shall I write for you?"),
    ("How are you?", "I am fine, thank you. What shall I write for you?"),
)


_DATABASE = sqlite3.connect(":memory:")


def _parses(statement: str) -> bool:
    try:
        _DATABASE.execute("EXPLAIN " + statement)
    except sqlite3.Error as error:
        return "no such" in str(error)
    return True


def _identifier(field: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", field.removesuffix("_FIELD").lower()).strip("_")
    if not name or name[0].isdigit():
        name = f"c_{name}"
    return f"{name}_" if name in _KEYWORDS else name


_KEYWORDS = frozenset(
    words(
        "add all alter and as asc begin between by case cast check column commit create cross default "
        "delete desc distinct do drop each else end escape except exists for foreign from full group "
        "having if in index inner insert into is join key left like limit match natural no not null "
        "of offset on or order outer primary range references release right row rows select set table "
        "then to transaction union unique update using values view when where with "
    )
)


def _filled(text: str, values: dict[str, str], pattern: str) -> str:
    return re.sub(pattern, lambda match: values.get(match[1], "?"), text)


def _literal(value: str) -> str:
    return value if re.fullmatch(r"-?\d+(\.\d+)?", value) else "'" + value.replace("'", "''") + "'"


def wikisql(path: Path, seed: int = 7) -> Iterator[Example]:
    """WikiSQL questions with their statements; about 60 % show the table's known columns first.

    Variables are filled in, identifiers made readable, `table` is called `records`; what sqlite cannot parse
    is left out.
    """
    rng = Random(seed)
    entries = json.loads(bz2.decompress(path.read_bytes()))
    columns: dict[str, dict[str, None]] = {}
    for entry in entries:
        found = re.findall(r"TABLEalias0\.(\S+?_FIELD)", entry["sql"][0])
        for sentence in entry["sentences"]:
            columns.setdefault(sentence["table-id"], {}).update((_identifier(field), None) for field in found)
    for entry in entries:
        raw = re.sub(r"TABLEalias0\.(\S+?_FIELD)", lambda match: _identifier(match[1]), entry["sql"][0])
        raw = raw.replace("FROM TABLE AS TABLEalias0", "FROM records").replace(" ;", ";")
        raw = re.sub(r"\b(COUNT|SUM|AVG|MAX|MIN) \(? ?(\w+)(?: \))?", r"\1(\2)", raw)
        for sentence in entry["sentences"]:
            values = {name: value.strip() for name, value in sentence["variables"].items()}
            literals = {name: _literal(value) for name, value in values.items()}
            statement = _filled(raw, literals, r'"?\b(var\d+)\b"?')
            question = _filled(sentence["text"], values, r"\b(var\d+)\b")
            question = re.sub(r"\s+([?.,!])", r"\1", question).strip()
            if len(question) > 200 or len(statement) > 220 or not (question + statement).isascii():
                continue
            if "_FIELD" in statement or "var0" in question or "alias0" in statement:
                continue
            if "?" in statement or not _parses(statement):
                continue
            known = list(columns[sentence["table-id"]])
            rng.shuffle(known)
            used = [name for name in known if re.search(rf"\b{name}\b", statement)]
            shown = sorted({*used, *known[:6]}, key=known.index)
            prompt = f"Table records({', '.join(shown)}). {question}" if rng.random() < 0.6 else question
            yield Example("sql", prompt, statement)


def gsm8k(path: Path) -> Iterator[Example]:
    """GSM8K problems without calculator marks; `#### 72` becomes `The answer is 72.`"""
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        answer = re.sub(r"<<[^>]*>>", "", record["answer"])
        answer = re.sub(r"\n#### (\S+)\s*$", r"\nThe answer is \1.", answer)
        if len(answer) <= 700 and answer.endswith("."):
            yield Example("math", record["question"].strip(), answer.strip())


def tinystories(path: Path) -> Iterator[Example]:
    """Stories as continuations of their first one or two sentences."""
    for story in path.read_text(encoding="utf-8").split("<|endoftext|>"):
        text = re.sub(
            r"\s*\n\s*", "\n", story.replace("\u201c", '"').replace("\u201d", '"').replace("\u2019", "'")
        ).strip()
        sentences = re.split(r"(?<=[.!?\"])(?=\s)", text, maxsplit=2)
        if len(sentences) < 3 or not 200 <= len(text) <= 1400 or text[-1] not in '.!?"' or not text.isascii():
            continue
        cut = 1 if len(sentences[0]) > 60 else 2
        opening = "".join(sentences[:cut]).replace("\n", " ").strip()
        rest = text[len("".join(sentences[:cut])) :].strip()
        yield Example("story", f"Tell a short story that begins: {opening}", rest)


def functions(path: Path) -> Iterator[Example]:
    """Short documented functions, asked for by name and first docstring paragraph; doctests removed."""
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        said = re.split(
            r"\n\s*\n|>>>|https?:|:param|@param|Args:|Wikipedia|Usage|Reference|Example",
            record["docstring"].strip(),
        )[0]
        said = " ".join(said.split()).strip()
        try:
            node = ast.parse(record["code"]).body[0]
        except SyntaxError:
            continue
        if (
            not isinstance(node, ast.FunctionDef)
            or len(node.body) < 2
            or not 12 <= len(said) <= 160
            or said[-1] == ":"
        ):
            continue
        rows = record["code"].splitlines()
        first = node.body[0]
        head, tail = rows[: first.lineno - 1], rows[first.end_lineno :]
        code = "\n".join([*head, f'    """{said}"""', *(row for row in tail if row.strip())])
        if len(code) <= 900 and code.isascii() and '"' not in said and "\\" not in said and _compiles(code):
            yield Example("python", f"Write a Python function named {record['name']}. {said}", code)


def mbpp(path: Path) -> Iterator[Example]:
    """MBPP tasks with their solutions, line ends and indents made regular."""
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        rows = record["code"].replace("\r\n", "\n").expandtabs(4).splitlines()
        code = "\n".join(row.rstrip() for row in rows if row.strip())
        if len(code) <= 700 and code.isascii() and _compiles(code):
            yield Example("python", record["text"].strip(), code)


def _compiles(code: str) -> bool:
    try:
        compile(code, "answer", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


SOURCES: tuple[tuple[str, Callable[[Path], Iterator[Example]]], ...] = (
    ("text2sql/wikisql.json.bz2", wikisql),
    ("gsm8k/train.jsonl", gsm8k),
    ("tinystories_sample/tinystories_sample.txt", tinystories),
    ("python_functions/thealgorithms_functions.jsonl", functions),
    ("mbpp/mbpp.jsonl", mbpp),
)


def real_examples(data: Path, split: Split) -> dict[str, list[Example]]:
    """The public sets' examples of one split by domain. Raises FileNotFoundError naming the missing file."""
    found: dict[str, list[Example]] = {domain: [] for domain in DOMAINS}
    for name, read in SOURCES:
        path = data / name
        if not path.is_file():
            raise FileNotFoundError(f"data: {path} is missing")
        for example in read(path):
            if example.split == split:
                found[example.domain].append(example)
    return found


@dataclass
class Mixer:
    """An endless, seekable run of chats: chat n depends on (seed, n) alone, so training can resume."""

    real: dict[str, list[Example]]
    seed: int = 0

    def pick(self, rng: Random, domain: str) -> Example:
        """One training example of a domain, public or generated."""
        pool = self.real.get(domain, [])
        if pool and rng.random() < REAL_SHARE[domain]:
            return rng.choice(pool)
        while (example := generate(domain, rng.getrandbits(60))).split != "train":
            pass
        return example

    def chat(self, number: int) -> tuple[str, Messages]:
        """Chat number `number` as (domain, messages): mostly one exchange, or more, or a system message."""
        rng = Random(f"{self.seed}/{number}")
        domain = DOMAINS[rng.randrange(len(DOMAINS))]
        messages: Messages = []
        if rng.random() < 0.08:
            messages.append(("system", rng.choice((*SYSTEMS[domain], *ANY_SYSTEM))))
        if rng.random() < 0.02:
            question, reply = rng.choice(TALK)
            messages += [("user", question), ("assistant", reply)]
        turns = 1 if rng.random() < 0.94 else rng.randrange(2, 4)
        for turn in range(turns):
            topic = domain if turn == 0 or rng.random() < 0.7 else rng.choice(DOMAINS)
            example = self.pick(rng, topic)
            messages += [("user", example.prompt), ("assistant", example.answer)]
        return domain, messages
