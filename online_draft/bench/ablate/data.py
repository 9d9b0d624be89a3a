"""The answers that all rows share: made once, kept as shards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from online_draft.bench.ablate.options import AblateOptions
from online_draft.bench.ablate.variants import Data
from online_draft.errors import ConfigError
from online_draft.models.embedded.domains import DOMAINS, prompts
from online_draft.models.loading import LoadedTarget
from online_draft.training.distillation.answers import AnswerConfig, answers_key, make_answers
from online_draft.training.distillation.prompts import Conversation, read_prompts
from online_draft.training.features import TokenRecord

TEMPERATURES = (0.0, 0.7, 1.0)
_HELD_OUT = 10
"""Every so many-th prompt of each domain is held out."""
_LEAST = 20


@dataclass(frozen=True, slots=True)
class AblateData:
    """Answers by temperature, prompt by prompt; `key` names them."""

    key: str
    train: dict[float, list[TokenRecord]]
    held_out: dict[float, list[TokenRecord]]

    def training(self, data: Data) -> list[TokenRecord]:
        """What one variant learns from: an answer to each training prompt, temperatures taken in turn."""
        heats = {"mixed": TEMPERATURES, "greedy": TEMPERATURES[:1], "sampled": TEMPERATURES[1:]}[data]
        answers = zip(*(self.train[heat] for heat in heats), strict=True)
        return [records[index % len(heats)] for index, records in enumerate(answers)]


def load_data(
    options: AblateOptions,
    loaded: LoadedTarget,
    progress: Callable[[int, int], None],
    stop: Callable[[], object],
) -> AblateData | None:
    """Have the target answer every prompt at every temperature, or read its answers; None when stopped.

    `progress(done, total)` counts answers. ConfigError when fewer than 20 prompts remain that fit the
    context and have answers to learn from.
    """
    texts, domains = _prompts(options, loaded)
    digest = hashlib.sha256()
    answers: dict[float, list[TokenRecord]] = {}
    for number, heat in enumerate(TEMPERATURES):
        config = AnswerConfig(options.max_new_tokens, (heat,), seed=1)
        key = answers_key(loaded.fingerprint, texts, config)
        digest.update(key.encode())

        def count(done: int, total: int, number: int = number) -> None:
            progress(number * total + done, len(TEMPERATURES) * total)

        shards = make_answers(loaded, texts, options.work_directory / f"answers-{key}", config, count, stop)
        if stop():
            return None
        answers[heat] = [shards.read(index) for index in range(len(texts))]
    together = list(zip(*answers.values(), strict=True))
    whole = [index for index, each in enumerate(together) if all(len(r.output_ids) > 1 for r in each)]
    if len(whole) < _LEAST:
        raise ConfigError("prompts", f"only {len(whole)} have answers to learn from, {_LEAST} are needed")
    train: dict[float, list[TokenRecord]] = {heat: [] for heat in TEMPERATURES}
    held_out: dict[float, list[TokenRecord]] = {heat: [] for heat in TEMPERATURES}
    for at, index in enumerate(whole):
        # Domains take turns: a run of as many prompts has each of them.
        part = train if at // domains % _HELD_OUT else held_out
        for heat, records in answers.items():
            part[heat].append(records[index])
    return AblateData(digest.hexdigest()[:16], train, held_out)


def _prompts(options: AblateOptions, loaded: LoadedTarget) -> tuple[list[tuple[int, ...]], int]:
    """Distinct prompts that leave room for a whole answer, domains in turns; and the number of domains."""
    if options.prompts is not None:
        conversations = read_prompts(options.prompts, options.answers)
    else:
        each = -(-options.answers // len(DOMAINS))
        columns = [prompts(domain, each, seed=1, split="train") for domain in DOMAINS]
        texts = [text for row in zip(*columns, strict=True) for text in row][: options.answers]
        conversations = [Conversation(({"role": "user", "content": text},)) for text in texts]
    domains = len(DOMAINS) if options.prompts is None else len({each.domain for each in conversations})
    most = loaded.config.max_position_embeddings - options.max_new_tokens
    found = dict.fromkeys(conversation.token_ids(loaded.tokenizer) for conversation in conversations)
    return [ids for ids in found if 0 < len(ids) <= most], domains
