"""Measures the embedded target on held-out prompts: answers that parse, compile, end, are right; bits a byte.

python -m online_draft.models.embedded.recipe.quality --target DIR [--data DIR] [--count N] [--json OUT]
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from online_draft.models.embedded.domains import DOMAINS, Example, examples
from online_draft.models.embedded.recipe.corpus import real_examples

HELDOUT_SEED = 2026
MAX_NEW_TOKENS = {"sql": 128, "math": 256, "python": 320, "story": 400}
MEANING = {
    "sql": "parses in sqlite",
    "math": "ends in a number",
    "python": "compiles",
    "story": "ends by itself",
}


@dataclass
class Row:
    """One line of the table in counts, so that readers divide; bits_per_byte is of the reference answers."""

    domain: str
    source: str
    prompts: int
    sound: int
    right: int | None
    ended: int
    bits_per_byte: float


def final_number(answer: str) -> str | None:
    """The number of a last line `The answer is N.`, without signs and commas, or None."""
    found = re.search(r"The answer is \$?(-?[\d,]*\.?\d+)%?\.?\s*$", answer)
    return found[1].replace(",", "") if found else None


def sql_parses(statement: str) -> bool:
    """Whether sqlite accepts the syntax of one statement; tables and columns need not exist."""
    if not statement.strip().endswith(";") or not sqlite3.complete_statement(statement):
        return False
    try:
        sqlite3.connect(":memory:").execute("EXPLAIN " + statement)
    except sqlite3.Warning:
        return False
    except sqlite3.Error as error:
        return "no such" in str(error)
    return True


def python_compiles(code: str) -> bool:
    """Whether the text is a Python module that defines something."""
    try:
        compile(code, "answer", "exec")
    except (SyntaxError, ValueError):
        return False
    return "def " in code


def is_sound(domain: str, answer: str, ended: bool) -> bool:
    """The domain's own test of form; see MEANING."""
    if domain == "sql":
        return sql_parses(answer)
    if domain == "python":
        return python_compiles(answer)
    if domain == "math":
        return final_number(answer) is not None
    return ended and answer.strip()[-1:] in tuple('.!?"')


def is_right(example: Example, answer: str) -> bool | None:
    """Whether the answer is correct: a word problem's number, a query's exact statement; else None."""
    if example.domain == "math":
        return final_number(answer) == final_number(example.answer)
    if example.domain == "sql":
        return " ".join(answer.split()).lower() == " ".join(example.answer.split()).lower()
    return None


class Judge:
    """A target loaded for measuring: batched greedy answers and the code length of reference answers."""

    def __init__(self, directory: Path, batch: int = 25) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        self.model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).requires_grad_(
            False
        )
        self.batch = batch

    def _prompt(self, text: str) -> str:
        rendered = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        return str(rendered)

    @torch.inference_mode()
    def answers(self, prompts: Sequence[str], limit: int) -> list[tuple[str, bool]]:
        """Greedy answers as (text, ended before `limit` tokens), one batch of at most `batch` prompts."""
        encoded = self.tokenizer([self._prompt(text) for text in prompts], return_tensors="pt", padding=True)
        produced = self.model.generate(
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            do_sample=False,
            max_new_tokens=limit,
        )
        rows = produced[:, encoded["input_ids"].shape[1] :]
        eos = self.tokenizer.eos_token_id
        return [
            (self.tokenizer.decode(row, skip_special_tokens=True), bool((row == eos).any())) for row in rows
        ]

    @torch.inference_mode()
    def nats(self, example: Example) -> float:
        """Code length of the reference answer with its end mark, given the prompt."""
        prompt = self.tokenizer(self._prompt(example.prompt), return_tensors="pt")["input_ids"]
        answer = self.tokenizer(example.answer + self.tokenizer.eos_token, return_tensors="pt")["input_ids"]
        logits = self.model(torch.cat((prompt, answer), 1)).logits[0, prompt.shape[1] - 1 : -1]
        return float(torch.nn.functional.cross_entropy(logits, answer[0], reduction="sum"))


def measure(judge: Judge, cases: Sequence[Example], source: str, progress: Progress) -> tuple[Row, list[str]]:
    """Answer the cases of one domain and count; also returns the answers."""
    domain = cases[0].domain
    task = progress.add_task(f"{domain} {source}", total=len(cases))
    row = Row(domain, source, len(cases), 0, 0 if domain in ("math", "sql") else None, 0, 0.0)
    answers: list[str] = []
    nats = 0.0
    for start in range(0, len(cases), judge.batch):
        chunk = cases[start : start + judge.batch]
        replies = judge.answers([case.prompt for case in chunk], MAX_NEW_TOKENS[domain])
        for case, (answer, ended) in zip(chunk, replies, strict=True):
            row.ended += ended
            row.sound += is_sound(domain, answer, ended)
            if row.right is not None:
                row.right += bool(is_right(case, answer))
            nats += judge.nats(case)
            answers.append(answer)
        progress.advance(task, len(chunk))
    row.bits_per_byte = nats / math.log(2) / sum(len(case.answer.encode()) for case in cases)
    return row, answers


def cases_of(domain: str, count: int, data: Path | None) -> list[tuple[str, list[Example]]]:
    """Held-out examples of a domain by source: generated, and real when `data` is given."""
    found = [("generated", list(islice(examples(domain, HELDOUT_SEED, "heldout"), count)))]
    if data is not None:
        pool = real_examples(data, "heldout")[domain]
        found.append(("public", Random(HELDOUT_SEED).sample(pool, min(count, len(pool)))))
    return found


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", type=Path, required=True, help="model directory in Hugging Face layout")
    parser.add_argument("--data", type=Path, help="public sets, for rows on their held-out examples")
    parser.add_argument("--count", type=int, default=50, help="prompts a domain and source")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves the default")
    parser.add_argument("--json", type=Path, help="write rows and answers here")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    judge = Judge(options.target)
    rows: list[Row] = []
    samples: list[dict[str, str]] = []
    with Progress() as progress:
        for domain in DOMAINS:
            for source, cases in cases_of(domain, options.count, options.data):
                row, answers = measure(judge, cases, source, progress)
                rows.append(row)
                samples += [
                    {
                        "domain": domain,
                        "source": source,
                        "prompt": case.prompt,
                        "reference": case.answer,
                        "answer": text,
                    }
                    for case, text in zip(cases, answers, strict=True)
                ]
    table = Table("domain", "prompts from", "n", "sound form", "meaning", "right", "ended", "bits/byte")
    for row in rows:
        right = "" if row.right is None else f"{row.right / row.prompts:.0%}"
        table.add_row(
            row.domain,
            row.source,
            str(row.prompts),
            f"{row.sound / row.prompts:.0%}",
            MEANING[row.domain],
            right,
            f"{row.ended / row.prompts:.0%}",
            f"{row.bits_per_byte:.3f}",
        )
    Console(width=110).print(table)
    if options.json:
        report = {"rows": [asdict(row) for row in rows], "answers": samples}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
