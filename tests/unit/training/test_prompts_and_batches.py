"""Prompts from saved data sets, token lists, and which records a micro-batch has."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow
import pytest

from online_draft.errors import ConfigError
from online_draft.training.batches import Batches
from online_draft.training.distillation.prompts import hash_prompts, read_prompts
from online_draft.training.token_lists import TokenLists


def save(directory: Path, rows: list[dict[str, object]], files: int = 2) -> Path:
    """As `datasets.Dataset.save_to_disk` writes it."""
    directory.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{files:05d}.arrow" for i in range(files)]
    table = pyarrow.Table.from_pylist(rows)
    for index, name in enumerate(names):
        part = table.slice(index * len(rows) // files, len(rows) // files)
        file = pyarrow.OSFile(str(directory / name), "wb")
        with file, pyarrow.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(part, max_chunksize=2)
    (directory / "state.json").write_text(json.dumps({"_data_files": [{"filename": n} for n in names]}))
    (directory / "dataset_info.json").write_text("{}")
    return directory


def test_a_saved_data_set_is_read_in_its_order(tmp_path: Path) -> None:
    path = save(tmp_path / "set", [{"prompt": f"number {i}", "id": i} for i in range(6)])
    assert [c.messages[0]["content"] for c in read_prompts(path)] == [f"number {i}" for i in range(6)]


def test_splits_and_files_follow_one_another(tmp_path: Path) -> None:
    for split, words in (("train", ["a", "b"]), ("test", ["c", "d"])):
        save(tmp_path / "sets" / split, [{"prompt": word} for word in words])
    (tmp_path / "sets" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    lines = tmp_path / "more.jsonl"
    lines.write_text('{"prompt": "e"}\n')
    read = read_prompts([tmp_path / "sets", lines])
    assert [c.messages[0]["content"] for c in read] == ["a", "b", "c", "d", "e"]
    hashes = hash_prompts([tmp_path / "sets", lines])
    assert [h["name"] for h in hashes] == ["sets", "more.jsonl"]
    (tmp_path / "sets" / "train" / "state.json").write_text("{}")
    again = hash_prompts([tmp_path / "sets", lines])
    assert again[0] != hashes[0] and again[1] == hashes[1]


def test_somebody_elses_last_answer_is_left_out(tmp_path: Path) -> None:
    messages = [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]
    path = save(tmp_path / "set", [{"messages": messages, "prompt": None}] * 2, files=1)
    assert [m["content"] for m in read_prompts(path)[0].messages] == ["user", "assistant", "user"]


def test_columns_may_be_empty_in_some_rows(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": "one", "turns": None},
        {"prompt": None, "turns": ["two", "x"]},
    ]
    assert [c.messages[0]["content"] for c in read_prompts(save(tmp_path / "a", rows, 1))] == ["one", "two"]
    rows.append({"prompt": None, "turns": None})
    with pytest.raises(ConfigError, match="row 3: expected"):
        read_prompts(save(tmp_path / "b", rows, 1))


def test_a_directory_of_something_else_or_damaged_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match=r"prompts: .*state\.json"):
        read_prompts(tmp_path / "other")
    path = save(tmp_path / "set", [{"prompt": "x"}] * 4)
    (path / "data-00001-of-00002.arrow").write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match=r"can't read .*data-00001"):
        read_prompts(path)


def test_without_pyarrow_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "set", [{"prompt": "x"}] * 2)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'online-draft\[datasets\]'"):
        read_prompts(path)


def test_token_lists_are_a_sequence_of_tuples() -> None:
    lists = TokenLists([(1, 2), (), (3,)])
    lists.append([4, 5, 6])
    assert list(lists) == [(1, 2), (), (3,), (4, 5, 6)]
    assert lists[-1] == (4, 5, 6) and lists[1:3] == [(), (3,)]
    with pytest.raises(IndexError):
        lists[4]


@pytest.mark.parametrize("pack", [False, True])
def test_an_epoch_holds_every_record_once(pack: bool) -> None:
    lengths = [(7 * i) % 50 + 1 for i in range(101)]
    batches = Batches(lengths, rows=4, max_tokens=60, pack=pack, seed=3)
    epochs: list[list[int]] = []
    index = 0
    for _ in range(3):
        seen: list[int] = []
        while len(seen) < len(lengths):
            rows = batches.at(index)
            assert 1 <= len(rows) <= 4
            assert all(len(row) == 1 or sum(lengths[n] for n in row) <= 60 for row in rows)
            seen += [number for row in rows for number in row]
            index += 1
        assert sorted(seen) == list(range(101))
        epochs.append(seen)
    assert epochs[0] != epochs[1] != epochs[2]
    again = Batches(lengths, rows=4, max_tokens=60, pack=pack, seed=3)
    assert again.at(index - 1) == batches.at(index - 1)
    assert again.at(0) == batches.at(0)


def test_packing_leaves_little_room() -> None:
    lengths = [(7 * i) % 50 + 1 for i in range(400)]
    batches = Batches(lengths, rows=8, max_tokens=64, pack=True)
    first = [batches.at(i) for i in range(10)]
    filled = sum(lengths[n] for rows in first for row in rows for n in row)
    assert filled > 0.85 * 64 * sum(len(rows) for rows in first)
    assert batches.at(0) != Batches(lengths, rows=8, max_tokens=64, pack=True, seed=1).at(0)


def test_long_records_have_a_row_of_their_own() -> None:
    batches = Batches([200, 10, 200, 10], rows=2, max_tokens=64, pack=True)
    rows = [row for i in range(3) for row in batches.at(i)][:4]
    assert all(len(row) == 1 for row in rows if row[0] in (0, 2))
