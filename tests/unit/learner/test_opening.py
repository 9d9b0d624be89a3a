"""Where the first user turn ends: what the chat template opens the assistant's turn with."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from online_draft.buffer.split import first_turn
from online_draft.learner.feed import assistant_tokens

TEMPLATES = {
    "own token": (
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "nothing to open": (
        "{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }}<|end|>"
        "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
    ),
}


@pytest.fixture
def tokenizer() -> Any:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<|user|>", "<|assistant|>", "<|end|>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"]
    return PreTrainedTokenizerFast(tokenizer_object=made, additional_special_tokens=special)


@pytest.mark.parametrize("name", TEMPLATES)
def test_all_turns_of_a_conversation_have_the_same_first_turn(tokenizer: Any, name: str) -> None:
    tokenizer.chat_template = TEMPLATES[name]
    opening = assistant_tokens(tokenizer)
    assert opening

    def prompt(*said: str) -> tuple[int, ...]:
        messages = [
            {"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)
        ]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return tuple(tokenizer(text, add_special_tokens=False).input_ids)

    first = first_turn(prompt("How are you?"), opening)
    assert tokenizer.decode(first).count("How are you?") == 1
    assert len(first) < len(prompt("How are you?"))
    assert first_turn(prompt("How are you?", "Well.", "And now?"), opening) == first
    assert first_turn(prompt("And now?"), opening) != first


def test_without_a_template_there_is_no_opening(tokenizer: Any) -> None:
    assert assistant_tokens(tokenizer) == ()
