"""A run that is stopped goes on as if nothing had happened, and ends when it should."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from online_draft.cli import app
from online_draft.errors import ConfigError
from online_draft.models.artifact import load_drafter, read_manifest
from online_draft.models.loading import LoadedTarget, random_target
from online_draft.training.distillation import distill as distill_module
from online_draft.training.distillation.answers import AnswerConfig
from online_draft.training.distillation.course import BEST_FILE, STATE_FILE
from online_draft.training.distillation.distill import DistillConfig, DistillPaused, DistillProgress, run
from online_draft.training.distillation.stopping import Stop
from online_draft.training.trainer import TrainerConfig

SIZES = {"window": 32, "intermediate_size": 32}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums on several threads may differ in the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def settings(directory: Path, **changes: object) -> DistillConfig:
    directory.mkdir(exist_ok=True)
    prompts = directory / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"number {i}: "}) + "\n" for i in range(14)))
    config = DistillConfig(
        target="tiny",
        prompts=prompts,
        out=directory / "out",
        steps=6,
        batch=3,
        answers=AnswerConfig(max_new_tokens=10, batch=4),
        trainer=TrainerConfig(warmup_steps=2, anchors=4, max_tokens=64, ema=0.5),
        sizes=SIZES,
        eval_every=2,
        eval_records=2,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def weights(directory: Path, name: str) -> bytes:
    (path,) = directory.glob(f"out.work/amphista-*/{name}")
    return path.read_bytes()


@pytest.mark.parametrize("changes", [{}, {"pack": True, "batch": 2, "accumulate": 3}])
def test_a_stopped_run_ends_with_the_same_bits(
    changes: dict[str, object], tiny: LoadedTarget, tmp_path: Path
) -> None:
    changes = dict(changes)
    accumulate = changes.pop("accumulate", 1)
    whole, parts = (settings(tmp_path / name, **changes) for name in ("whole", "parts"))
    whole, parts = (
        replace(config, trainer=replace(config.trainer, accumulate=accumulate))  # type: ignore[arg-type]
        for config in (whole, parts)
    )
    run(whole, lambda _: None, tiny)
    slices = 0
    for phase, after in (("answer", 5), ("train", 1), ("train", 2), ("train", 1)):
        seen: list[DistillProgress] = []

        def stop(phase: str = phase, after: int = after, seen: list[DistillProgress] = seen) -> object:
            return sum(p.phase == phase for p in seen) >= after

        with pytest.raises(DistillPaused, match="run it again"):
            run(parts, seen.append, tiny, stop)
        slices += sum(p.phase == "train" for p in seen)
    assert slices == 4
    rest: list[DistillProgress] = []
    run(parts, rest.append, tiny)
    assert rest[0].done == rest[0].total == 14
    assert sum(p.phase == "train" for p in rest) == 6 * int(accumulate) - 4  # type: ignore[call-overload]
    for name in (STATE_FILE, BEST_FILE):
        assert weights(tmp_path / "whole", name) == weights(tmp_path / "parts", name)
    files = [(tmp_path / name / "out" / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]


def test_a_finished_run_only_writes_the_drafter_again(tiny: LoadedTarget, tmp_path: Path) -> None:
    first = run(settings(tmp_path), lambda _: None, tiny)
    seen: list[DistillProgress] = []
    second = run(settings(tmp_path), seen.append, tiny)
    assert not [p for p in seen if p.phase == "train"]
    assert second.methods[0].tau == first.methods[0].tau
    run(settings(tmp_path, resume=False), seen.append, tiny)
    assert sum(p.phase == "train" for p in seen) == 6


def test_the_best_weights_are_kept(
    tiny: LoadedTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taus = iter([1.2, 1.9, 1.5, 1.4, 1.3, 1.0])
    kept: dict[int, dict[str, torch.Tensor]] = {}
    from online_draft.training.distillation import course

    monkeypatch.setattr(course, "replayed_tau", lambda drafter, *_: [drafter])

    def tau(results: list[torch.nn.Module]) -> float:
        kept[len(kept)] = {name: t.clone() for name, t in results[0].state_dict().items()}
        return next(taus)

    monkeypatch.setattr(course, "mean_accepted_length", tau)
    report = run(settings(tmp_path, steps=40, patience=3), lambda _: None, tiny).methods[0]
    assert (report.best_step, report.steps, report.ended) == (4, 10, "patience")
    written = load_drafter(tmp_path / "out").state_dict()
    assert all(torch.equal(t, kept[1][name].bfloat16().to(t.dtype)) for name, t in written.items())
    looks = json.loads((tmp_path / "out" / "evaluation.json").read_text())["looks"]
    assert [look["tau"] for look in looks] == [1.2, 1.9, 1.5, 1.4, 1.3]


def test_when_time_is_up_the_drafter_is_written_and_training_can_go_on(
    tiny: LoadedTarget, tmp_path: Path
) -> None:
    seen: list[DistillProgress] = []

    def stop() -> object:
        return "time" if sum(p.phase == "train" for p in seen) >= 3 else None

    report = run(settings(tmp_path), seen.append, tiny, stop)
    assert report.methods[0].ended == "time"
    assert (report.methods[0].steps, report.methods[0].best_step) == (3, 2)
    assert load_drafter(tmp_path / "out", tiny.target, "tiny-1").kind == "amphista"
    assert run(settings(tmp_path), lambda _: None, tiny).methods[0].steps == 6
    assert Stop(hours=0)() == "time" and Stop(hours=1)() is None and Stop()() is None


def test_changed_options_start_anew_and_are_named(tiny: LoadedTarget, tmp_path: Path) -> None:
    said: list[str] = []
    run(settings(tmp_path), lambda _: None, tiny, say=said.append)
    assert said == []
    run(settings(tmp_path, batch=2), lambda _: None, tiny, say=said.append)
    assert len(said) == 1 and said[0].startswith("amphista: batch changed since amphista-")
    seen: list[DistillProgress] = []
    run(settings(tmp_path, answers=AnswerConfig(9, (0.5,), batch=4)), seen.append, tiny, say=said.append)
    assert seen[0].done == 0


def test_answers_made_otherwise_are_refused(tiny: LoadedTarget, tmp_path: Path) -> None:
    from online_draft.training.distillation.answers import make_answers

    prompts = [(1, 2), (3, 4)]
    make_answers(tiny, prompts, tmp_path, AnswerConfig(4), lambda done, total: None)
    for config, given, says in (
        (AnswerConfig(4, (0.7,)), prompts, r"temperatures was \[0.0\], is \[0.7\]"),
        (AnswerConfig(5), prompts, "max_new_tokens was 4, is 5"),
        (AnswerConfig(4), prompts[:1], "prompts was"),
    ):
        with pytest.raises(ConfigError, match=says):
            make_answers(tiny, given, tmp_path, config, lambda done, total: None)


def test_heads_of_a_bfloat16_target_are_trained_in_float32(tmp_path: Path, tiny: LoadedTarget) -> None:
    half = replace(tiny, target=random_target(tiny.config, 0, torch.bfloat16, logit_scale=4.0))
    config = settings(tmp_path, steps=30, batch=8, dtype="bfloat16", pack=True)
    seen: list[DistillProgress] = []
    report = run(config, seen.append, half).methods[0]
    losses = [p.loss for p in seen if p.phase == "train" and p.loss is not None]
    assert losses[-1] < 0.9 * losses[0]
    assert report.tau >= 1
    (state,) = (tmp_path / "out.work").glob(f"amphista-*/{STATE_FILE}")
    assert load_file(state)["weight.residual_KFF"].dtype == torch.float32


def test_a_wide_vocabulary_is_trimmed_to_what_was_emitted(tiny: LoadedTarget, tmp_path: Path) -> None:
    report = run(settings(tmp_path, draft_vocab=100), lambda _: None, tiny).methods[0]
    assert report.draft_vocab == 100
    drafter = load_drafter(tmp_path / "out", tiny.target, "tiny-1")
    assert drafter.draft_ids_V is not None and set(tiny.config.eos_token_ids) <= set(
        drafter.draft_ids_V.tolist()
    )
    assert "scoring 100 of 256 tokens" in (tmp_path / "out" / "README.md").read_text()


def test_what_is_written_says_where_it_comes_from(tiny: LoadedTarget, tmp_path: Path) -> None:
    answers = AnswerConfig(max_new_tokens=10, batch=4, temperatures=(0.0, 1.0))
    run(settings(tmp_path, answers=answers), lambda _: None, tiny)
    out = tmp_path / "out"
    assert {p.name for p in out.iterdir()} == {
        "manifest.json", "model.safetensors", "evaluation.json", "README.md",
    }  # fmt: skip
    provenance = read_manifest(out)["provenance"]
    assert set(provenance["versions"]) == {"online_draft", "torch", "transformers", "python"}
    assert provenance["options"]["trainer"]["max_tokens"] == 64
    assert provenance["best_step"] in (2, 4, 6)
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert evaluation["tau"] == pytest.approx(evaluation["committed"] / evaluation["steps"])
    assert provenance["evaluation"]["tau"] == evaluation["tau"]
    assert [look["step"] for look in evaluation["looks"]] == [2, 4, 6]
    assert str(tmp_path) not in (out / "manifest.json").read_text() + (out / "README.md").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_command_which_goes_on_later(
    number: int, tiny: LoadedTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings(tmp_path)
    monkeypatch.setattr(distill_module, "load_target", lambda *_: tiny)
    from online_draft.bench import progress

    shown = progress.Bars.update

    def interrupted(self: progress.Bars, name: str, done: int, total: int, note: str = "") -> None:
        shown(self, name, done, total, note)
        if name == "train amphista" and done == 2:
            signal.raise_signal(number)

    monkeypatch.setattr(progress.Bars, "update", interrupted)
    before = signal.getsignal(number)
    arguments = [
        "distill", "--target", "tiny", "--prompts", str(tmp_path / "prompts.jsonl"), "--out",
        str(tmp_path / "out"), "--steps", "5", "--max-new-tokens", "8", "--eval-every", "2", "--size",
        "window=32", "--size", "intermediate_size=32", "--batch", "3",
    ]  # fmt: skip
    stopped = CliRunner().invoke(app, arguments)
    assert stopped.exit_code == 130, stopped.output
    assert "stopping after this step" in stopped.stderr
    assert "stopped at step 2 of 5; run it again to go on" in stopped.stderr
    assert signal.getsignal(number) == before
    monkeypatch.setattr(progress.Bars, "update", shown)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("amphista: replayed τ ")
    assert read_manifest(tmp_path / "out")["provenance"]["steps"] == 5


def test_a_second_signal_ends_at_once() -> None:
    said: list[str] = []
    with Stop(say=lambda: said.append("stopping")) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop() == "signal"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert said == ["stopping"]
