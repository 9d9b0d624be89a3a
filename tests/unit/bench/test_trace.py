from __future__ import annotations

from pathlib import Path

import pytest

from online_draft.bench.load.trace import Arrival, read_trace
from online_draft.errors import ConfigError

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.4799600,110,27
2023-11-16 18:17:04.2299600,34,12
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "trace"
    path.write_text(text, encoding="utf-8")
    return path


def test_azures_columns_are_read_and_sorted_by_arrival(tmp_path: Path) -> None:
    found = read_trace(written(tmp_path, AZURE))
    assert [(a.prompt_tokens, a.output_tokens) for a in found] == [(4808, 10), (34, 12), (110, 27)]
    assert [a.at_s for a in found] == pytest.approx([0.0, 0.25, 0.5], abs=1e-5)


def test_json_lines_with_seconds_are_read(tmp_path: Path) -> None:
    rows = ['{"timestamp": 12.5, "prompt_tokens": 3, "output_tokens": 4}', "", '{"timestamp": "14", ']
    rows[2] += '"prompt_tokens": 5, "output_tokens": 6}'
    assert read_trace(written(tmp_path, "\n".join(rows))) == [Arrival(0.0, 3, 4), Arrival(1.5, 5, 6)]


def test_a_limit_ends_reading_before_what_comes_later(tmp_path: Path) -> None:
    path = written(tmp_path, "timestamp,prompt_tokens,output_tokens\n1,2,3\n2,3,4\nbroken\n")
    assert len(read_trace(path, limit=2)) == 2


def test_requests_that_generate_nothing_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, "timestamp,prompt_tokens,output_tokens\n1,2,0\n2,3,4\n")
    assert read_trace(path) == [Arrival(0.0, 3, 4)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no request"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "holds no request"),
        ("when,ContextTokens,GeneratedTokens\n1,2,3\n", ":2: no column TIMESTAMP or timestamp"),
        ("timestamp,prompt_tokens,output_tokens\n1,2\n", ":2: no column GeneratedTokens or output_tokens"),
        ("timestamp,prompt_tokens,output_tokens\nnoon,2,3\n", ":2: 'noon' is neither"),
        ("timestamp,prompt_tokens,output_tokens\nnan,2,3\n", ":2: 'nan' is neither"),
        ("timestamp,prompt_tokens,output_tokens\n1,many,3\n", ":2: 'many' is no number of prompt tokens"),
        ("timestamp,prompt_tokens,output_tokens\n1,0,3\n", ":2: prompt tokens must be at least 1"),
        ("timestamp,prompt_tokens,output_tokens\n1,1,-3\n", ":2: output tokens must be at least 0"),
        ('{"timestamp": 1}\n', ":1: no column ContextTokens"),
        ('{"timestamp": 1\n', ":1: "),
        ('{"timestamp": 1, "prompt_tokens": 1, "output_tokens": 1}\n[1]\n', ":2: expected a JSON object"),
    ],
)
def test_a_bad_trace_is_named_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=r"^trace: ") as caught:
        read_trace(path)
    assert says in str(caught.value) and str(path) in str(caught.value)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read"):
        read_trace(tmp_path / "nowhere.csv")
    (tmp_path / "binary").write_bytes(bytes(range(128, 256)))
    with pytest.raises(ConfigError, match="no text file"):
        read_trace(tmp_path / "binary")
