"""The recipe: tokenizer, chat layout, packing, optimizer, export to transformers, and judging of form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from online_draft.models.embedded.domains import DOMAINS, Example, generate, split_of
from online_draft.models.embedded.recipe import corpus, quality
from online_draft.models.embedded.recipe.export import export, largest_difference
from online_draft.models.embedded.recipe.model import Shape, TinyLlama
from online_draft.models.embedded.recipe.optimizer import MuonAdamW, orthogonalise
from online_draft.models.embedded.recipe.packing import ROWS, Packer
from online_draft.models.embedded.recipe.tokenizer import (
    END_ID,
    SPECIALS,
    encode_chat,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from online_draft.models.embedded.recipe.train import rate_scale

SMALL = Shape(
    vocab_size=600, hidden_size=32, layers=2, heads=2, kv_heads=1, head_dim=16, intermediate_size=48
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = [
        text for d in DOMAINS for n in range(100) for text in (generate(d, n).prompt, generate(d, n).answer)
    ]
    return train_tokenizer(texts, vocab_size=600)


@pytest.fixture(scope="module")
def tokenizer_dir(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(tokenizer, directory, 1024)
    return directory


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_round_trips(text: str) -> None:
    tokenizer = _cached()
    if any(mark in text for mark in SPECIALS):
        return
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


_CACHE: list[Tokenizer] = []


def _cached() -> Tokenizer:
    if not _CACHE:
        _CACHE.append(train_tokenizer([generate("python", n).answer for n in range(50)], vocab_size=300))
    return _CACHE[0]


def test_digits_are_single_tokens(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("90210").ids) == 5


def test_special_marks_have_the_first_ids(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(mark) for mark in SPECIALS] == list(range(len(SPECIALS)))


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_chat_template_matches_the_training_layout(
    tokenizer: Tokenizer, tokenizer_dir: Path, system: str | None
) -> None:
    fast = AutoTokenizer.from_pretrained(tokenizer_dir)
    turns = [("user", "Hi  there"), ("assistant", "x = 1\n"), ("user", "héllo ✓")]
    messages = [("system", system), *turns] if system else turns
    ids, mine = encode_chat(tokenizer, messages)
    as_dicts = [{"role": role, "content": content} for role, content in messages]
    made = fast.apply_chat_template(as_dicts, add_generation_prompt=True, tokenize=False)
    assert fast(made)["input_ids"] == [*ids, fast.convert_tokens_to_ids("<|assistant|>")]
    assert fast.eos_token == "<|end|>" and fast.pad_token == "<|endoftext|>" and fast.bos_token is None
    assert tokenizer.decode([i for i, flag in zip(ids, mine, strict=True) if flag]) == "x = 1\n"
    assert sum(mine) and ids[max(n for n, flag in enumerate(mine) if flag)] == END_ID


def test_training_chats_are_seekable_and_never_held_out() -> None:
    mixer = corpus.Mixer({}, seed=5)
    assert [mixer.chat(n) for n in (3, 900)] == [corpus.Mixer({}, seed=5).chat(n) for n in (3, 900)]
    fixed = {question for question, _ in corpus.TALK}
    for n in range(300):
        for role, text in mixer.chat(n)[1]:
            assert role != "user" or text in fixed or split_of(text) == "train"


def test_rows_hold_whole_documents_that_predict_their_next_token(tokenizer: Tokenizer) -> None:
    packer = Packer(corpus.Mixer({}), tokenizer)
    batch = packer.next()
    assert batch.ids.shape[1] in ROWS and batch.ids.shape == (ROWS[batch.ids.shape[1]], batch.ids.shape[1])
    same = (batch.documents[:, 1:] == batch.documents[:, :-1]) & (batch.documents[:, 1:] > 0)
    assert torch.equal(batch.ids[:, 1:][same], batch.targets[:, :-1][same])
    assert not batch.weights[batch.documents == 0].any()
    assert (batch.documents > 0).float().mean() > 0.8


def test_no_document_sees_another() -> None:
    torch.manual_seed(0)
    model = TinyLlama(SMALL)
    first, second = torch.randint(5, 600, (1, 9)), torch.randint(5, 600, (1, 7))
    packed = torch.cat((first, second), 1)
    numbers = torch.tensor([[1] * 9 + [2] * 7])
    hidden = model.hidden(packed, torch.float32, numbers)
    torch.testing.assert_close(hidden[:, :9], model.hidden(first, torch.float32))
    torch.testing.assert_close(hidden[:, 9:], model.hidden(second, torch.float32), atol=1e-4, rtol=1e-3)


def test_export_has_equal_logits_in_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TinyLlama(SMALL)
    export(model, tmp_path, torch.float32)
    assert largest_difference(model, tmp_path) < 1e-4
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is True


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 16, 40)))
    assert values.min() > 0.5 and values.max() < 1.4


def test_optimizer_lowers_the_loss() -> None:
    torch.manual_seed(0)
    model = TinyLlama(SMALL)
    optimizer = MuonAdamW(model)
    ids = torch.randint(5, 600, (4, 33))
    losses = []
    for _ in range(80):
        loss = model(ids[:, :-1], ids[:, 1:], torch.float32).mean()
        loss.backward()
        optimizer.step(1.0)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    assert rate_scale(0, 0.0) < 0.05
    assert rate_scale(1000, 0.2) == 1.0
    assert 0 < rate_scale(1000, 0.9) < 0.2
    assert rate_scale(1000, 1.0) == 0.0


@pytest.mark.parametrize(
    ("domain", "answer", "ended", "sound"),
    [
        ("sql", "SELECT a FROM t WHERE b = 'x';", True, True),
        ("sql", "SELECT a FROM t WHERE b = 'x'", True, False),
        ("sql", "SELECT FROM t WHERE;", True, False),
        ("sql", "SELECT 1; DROP TABLE t;", True, False),
        ("math", "2 + 2 = 4\nThe answer is 4.", True, True),
        ("math", "It is four.", True, False),
        ("python", "def f(x):\n    return x", True, True),
        ("python", "def f(x:\n    return x", True, False),
        ("story", "They went home.", True, True),
        ("story", "They went home.", False, False),
        ("story", "They went", True, False),
        ("story", "", True, False),
    ],
)
def test_form_is_judged(domain: str, answer: str, ended: bool, sound: bool) -> None:
    assert quality.is_sound(domain, answer, ended) is sound


def test_right_answers_are_told_from_wrong_ones() -> None:
    case = Example("math", "", "The answer is 1,200.")
    assert quality.is_right(case, "The answer is $1200.") is True
    assert quality.is_right(case, "The answer is 120.") is False
    assert quality.is_right(Example("story", "", ""), "x") is None


def test_public_sets_are_made_readable(tmp_path: Path) -> None:
    gsm = tmp_path / "gsm.jsonl"
    gsm.write_text(json.dumps({"question": "q?", "answer": "1+1=<<1+1=2>>2\n#### 2"}) + "\n")
    assert [example.answer for example in corpus.gsm8k(gsm)] == ["1+1=2\nThe answer is 2."]
    tasks = tmp_path / "mbpp.jsonl"
    tasks.write_text(json.dumps({"text": "Do it.", "code": "def f(x):\r\n\treturn x \r\n"}) + "\n")
    assert [example.answer for example in corpus.mbpp(tasks)] == ["def f(x):\n    return x"]
    made = tmp_path / "functions.jsonl"
    code = 'def f(x: int) -> int:\n    """\n    Return x again.\n\n    >>> f(1)\n    1\n    """\n    return x'
    made.write_text(
        json.dumps({"name": "f", "docstring": "Return x again.\n\n>>> f(1)\n1", "code": code}) + "\n"
    )
    assert [example.answer for example in corpus.functions(made)] == [
        'def f(x: int) -> int:\n    """Return x again."""\n    return x'
    ]


def test_the_shipped_tokenizer_is_the_one_described() -> None:
    from online_draft.models.embedded import TARGET_DIR, has_target

    if not has_target():
        pytest.skip("the embedded target's weights are not here")
    tokenizer = load_tokenizer(TARGET_DIR)
    assert tokenizer.get_vocab_size() == 2048
    text = "naïve 日本 \t x=1\r\n  🎉"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
