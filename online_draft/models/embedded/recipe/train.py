"""Trains the embedded target from scratch on a wall-clock budget; resumable, with early snapshots.

python -m online_draft.models.embedded.recipe.train --data DIR --out DIR [--minutes M] [--resume]
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from online_draft.models.embedded.domains import DOMAINS
from online_draft.models.embedded.recipe.corpus import Mixer, real_examples
from online_draft.models.embedded.recipe.export import export, largest_difference
from online_draft.models.embedded.recipe.model import Shape, TinyLlama
from online_draft.models.embedded.recipe.optimizer import MuonAdamW
from online_draft.models.embedded.recipe.packing import MicroBatch, Packer
from online_draft.models.embedded.recipe.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer

WARMUP_STEPS = 60
CONSTANT_SHARE = 0.35
MICRO_BATCHES = 2
CLIP = 1.0


@dataclass
class Progress:
    """What a checkpoint counts: optimizer steps, tokens (padding included), training seconds, next chat."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    position: int = 0


def rate_scale(step: int, share: float) -> float:
    """Learning-rate factor: warm-up by steps, constant, then linear to zero as `share` goes to 1."""
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return warm * min(1.0, max(0.0, 1.0 - share) / (1.0 - CONSTANT_SHARE))


class Run:
    """One training run: model, optimizer, data and their checkpoint under a directory."""

    def __init__(self, data: Path, out: Path, *, resume: bool, compiled: bool, workers: int) -> None:
        self.out = out
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        mixer = Mixer(real_examples(data, "train"))
        export_dir = out / "export"
        if not (resume and (export_dir / "tokenizer.json").is_file()):
            texts = (text for n in range(60_000) for _, text in mixer.chat(-1 - n)[1])
            save_tokenizer(train_tokenizer(texts), export_dir, Shape().max_positions)
        self.packer = Packer(mixer, load_tokenizer(export_dir))
        torch.manual_seed(1)
        self.model = TinyLlama(Shape()).to(self.device)
        self.optimizer = MuonAdamW(self.model)
        self.progress = Progress()
        self.stopping = False
        if resume and (out / "state.json").is_file():
            self._load()
        self.replicas = [self.model, *(self._replica() for _ in range(workers - 1))]
        self.forwards: list[Callable[..., torch.Tensor]] = [
            torch.compile(replica, dynamic=False) if compiled else replica for replica in self.replicas
        ]
        self.pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))

    def stop(self, *_: object) -> None:
        """Ask for a checkpoint and the end after the current step; a signal handler."""
        self.stopping = True

    def _replica(self) -> TinyLlama:
        """A network that shares the model's weights and has gradients of its own: one per worker thread."""
        replica = TinyLlama(self.model.shape).to(self.device)
        for mine, shared in zip(replica.parameters(), self.model.parameters(), strict=True):
            mine.data = shared.data
        return replica

    def save(self) -> None:
        """Write weights, optimizer state and counters, each renamed into place, and a bf16 snapshot."""
        self.progress.position = self.packer.position
        for name, tensors in (("weights", self.model.state_dict()), ("optimizer", self.optimizer.state)):
            save_file(
                {key: value.contiguous() for key, value in tensors.items()}, str(self.out / f"{name}.partial")
            )
            (self.out / f"{name}.partial").replace(self.out / f"{name}.safetensors")
        (self.out / "state.partial").write_text(json.dumps(asdict(self.progress)))
        (self.out / "state.partial").replace(self.out / "state.json")
        export(self.model, self.out / "export")

    def _load(self) -> None:
        self.progress = Progress(**json.loads((self.out / "state.json").read_text()))
        self.model.load_state_dict(load_file(str(self.out / "weights.safetensors"), device=str(self.device)))
        for key, value in load_file(str(self.out / "optimizer.safetensors"), device=str(self.device)).items():
            self.optimizer.state[key].copy_(value)
        self.optimizer.steps = self.progress.step
        self.packer.position = self.progress.position

    def step(self, scale: float) -> dict[int, tuple[float, float]]:
        """One optimizer step on a micro-batch a worker, at least two; answers' (loss sum, count) by domain.

        Workers are threads with one core each that meet once a step: on a shared CPU this loses far less than
        threads that meet in every operation.
        """
        batches = [self.packer.next() for _ in range(max(MICRO_BATCHES, len(self.replicas)))]
        total = sum(float(batch.weights.sum()) for batch in batches)
        shares = [batches[n :: len(self.replicas)] for n in range(len(self.replicas))]
        jobs = [self.pool.submit(self._backward, n, share, total) for n, share in enumerate(shares)]
        sums: dict[int, tuple[float, float]] = {}
        for job in jobs:
            for domain, (loss, count) in job.result():
                old = sums.get(domain, (0.0, 0.0))
                sums[domain] = (old[0] + loss, old[1] + count)
        self.progress.tokens += sum(int((batch.documents > 0).sum()) for batch in batches)
        for replica in self.replicas[1:]:
            for mine, theirs in zip(self.model.parameters(), replica.parameters(), strict=True):
                assert mine.grad is not None and theirs.grad is not None
                mine.grad += theirs.grad
                theirs.grad = None
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step(scale)
        self.progress.step += 1
        return sums

    def _backward(
        self, worker: int, batches: list[MicroBatch], total: float
    ) -> list[tuple[int, tuple[float, float]]]:
        """Add some micro-batches' gradients to a replica; (domain, (loss sum, count)) of answer tokens."""
        sums: list[tuple[int, tuple[float, float]]] = []
        for batch in batches:
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
                losses = self.forwards[worker](
                    batch.ids.to(self.device),
                    batch.targets.to(self.device),
                    torch.bfloat16,
                    batch.documents.to(self.device),
                )
            (losses * batch.weights.to(self.device)).sum().div(total).backward()  # type: ignore[no-untyped-call]
            values = losses.detach().cpu()
            for domain in range(len(DOMAINS)):
                chosen = (batch.weights == 1.0) & (batch.domains == domain)
                sums.append((domain, (float(values[chosen].sum()), float(chosen.sum()))))
        return sums


def train(run: Run, minutes: float, checkpoint_every: float, max_steps: int = 0) -> None:
    """Train until the budget of wall-clock minutes is spent (earlier sessions count), then save."""
    begun = time.monotonic() - run.progress.seconds
    saved = shown = time.monotonic()
    shown_tokens, recent = run.progress.tokens, dict.fromkeys(range(len(DOMAINS)), (0.0, 0.0))
    while (share := run.progress.seconds / (60 * minutes)) < 1.0:
        for domain, (loss, weight) in run.step(rate_scale(run.progress.step, share)).items():
            recent[domain] = (recent[domain][0] + loss, recent[domain][1] + weight)
        now = time.monotonic()
        run.progress.seconds = now - begun
        if now - shown > 15:
            speed = (run.progress.tokens - shown_tokens) / (now - shown)
            by_domain = " ".join(
                f"{name} {recent[n][0] / max(recent[n][1], 1):.3f}" for n, name in enumerate(DOMAINS)
            )
            left = minutes - run.progress.seconds / 60
            print(
                f"step {run.progress.step}  {run.progress.tokens / 1e6:.2f}M tokens  {speed:.0f}/s  "
                f"loss {by_domain}  {left:.1f} min left",
                flush=True,
            )
            shown, shown_tokens = now, run.progress.tokens
            recent = dict.fromkeys(recent, (0.0, 0.0))
        if now - saved > 60 * checkpoint_every:
            run.save()
            saved = time.monotonic()
        if run.stopping or (max_steps and run.progress.step >= max_steps):
            break
    run.save()


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="directory of the public sets")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints, and the snapshot under export/")
    parser.add_argument(
        "--minutes", type=float, default=75.0, help="wall-clock budget of all sessions together"
    )
    parser.add_argument("--checkpoint-minutes", type=float, default=3.0)
    parser.add_argument("--workers", type=int, default=2, help="worker threads, one core each")
    parser.add_argument("--max-steps", type=int, default=0, help="stop early, for trials")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    run = Run(
        options.data, options.out, resume=options.resume, compiled=not options.eager, workers=options.workers
    )
    signal.signal(signal.SIGTERM, run.stop)
    train(run, options.minutes, options.checkpoint_minutes, options.max_steps)
    check = options.out / "check"
    export(run.model, check, torch.float32)
    print(f"largest logit difference to LlamaForCausalLM: {largest_difference(run.model, check):.2e}")


if __name__ == "__main__":
    main()
