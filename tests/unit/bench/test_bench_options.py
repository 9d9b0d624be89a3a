"""Options that can't be measured are refused by name before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from online_draft.bench.decode import DecodeOptions
from online_draft.bench.load import LoadOptions
from online_draft.bench.machine import available_bytes, cpu_model, machine_facts, prepare
from online_draft.bench.step import StepOptions
from online_draft.errors import ConfigError

TRACE = Path("trace.csv")
LOOKUP = ("plain", "hf-prompt-lookup")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (DecodeOptions(methods=()), "methods"),
        (DecodeOptions(methods=("plain", "eagle")), "methods"),
        (DecodeOptions(methods=("plain", "plain")), "methods"),
        (DecodeOptions(methods=("synthetic:3",)), "methods"),
        (DecodeOptions(methods=("plain", "synthetic:0.5")), "synthetic"),
        (DecodeOptions(methods=LOOKUP, batch=2), "batch"),
        (DecodeOptions(methods=LOOKUP, temperature=0.5), "temperature"),
        (DecodeOptions(drafters={"plain": Path()}), "drafter"),
        (DecodeOptions(methods=("ngram",), drafters={"ngram": Path()}), "drafter"),
        (DecodeOptions(methods=("plain", "plain+ngram")), "methods"),
        (DecodeOptions(repeat=0), "repeat"),
        (DecodeOptions(max_new_tokens=0), "max-new-tokens"),
        (DecodeOptions(temperature=-1.0), "temperature"),
        (DecodeOptions(limit=0), "limit"),
        (DecodeOptions(speculation="never"), "speculation"),  # type: ignore[arg-type]
        (DecodeOptions(kernels="soon"), "kernels"),  # type: ignore[arg-type]
        (LoadOptions(concurrency=()), "concurrency"),
        (LoadOptions(concurrency=(1, 0)), "concurrency"),
        (LoadOptions(concurrency=(2, 2)), "concurrency"),
        (LoadOptions(concurrency=(1,), trace=TRACE), "concurrency"),
        (LoadOptions(speedup=2.0), "speedup"),
        (LoadOptions(trace=TRACE, speedup=0.0), "speedup"),
        (LoadOptions(requests=0), "requests"),
        (LoadOptions(drafter="synthetic:99"), "synthetic"),
        (LoadOptions(target="elsewhere"), "drafter"),
        (LoadOptions(speculation="never"), "speculation"),  # type: ignore[arg-type]
        (LoadOptions(kernels="soon"), "kernels"),  # type: ignore[arg-type]
        (StepOptions(rows=(1, 8)), "rows"),
        (StepOptions(rows=()), "rows"),
        (StepOptions(batch=(0,)), "batch"),
        (StepOptions(context=0), "context"),
        (StepOptions(layers=2), "layers"),
        (StepOptions(random_init="1b", layers=17), "layers"),
        (StepOptions(random_init="70b"), "random-init"),
        (StepOptions(random_init="1b", target="elsewhere"), "target"),
        (StepOptions(random_init="1b", drafter=Path()), "drafter"),
        (StepOptions(target="elsewhere"), "drafter"),
        (StepOptions(kernels="auto"), "kernels"),  # type: ignore[arg-type]
    ],
)
def test_the_option_is_named(options: Any, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        options.check()
    assert caught.value.field == named


@pytest.mark.parametrize("options", [DecodeOptions(), LoadOptions(), LoadOptions(trace=TRACE), StepOptions()])
def test_defaults_can_be_measured(options: Any) -> None:
    options.check()


@pytest.mark.parametrize(
    ("device", "dtype", "threads", "named"),
    [("cpu", "int8", None, "dtype"), ("abacus", "float32", None, "device"), ("cpu", "float32", 0, "threads")],
)
def test_what_the_machine_lacks_is_named(device: str, dtype: str, threads: int | None, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(device, dtype, threads)
    assert caught.value.field == named


def test_the_machine_is_described(tmp_path: Path) -> None:
    facts = machine_facts("cpu")
    assert facts["threads"] >= 1 and facts["accelerator"] is None
    assert set(facts["versions"]) == {"python", "online-draft", "torch", "transformers"}
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Abacus 9\n")
    assert cpu_model(tmp_path / "cpuinfo").startswith("Abacus 9, ")
    assert cpu_model(tmp_path / "nothing")
    assert available_bytes("cpu") > 0
