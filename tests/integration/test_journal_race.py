from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from online_draft.registry.journal import DecisionJournal
from online_draft.registry.ladder import Choice, LadderState, decide_with_retry, fold
from online_draft.store import ArtifactStore

ROUNDS = 15

WRITER = """
import sys
from online_draft.registry.journal import DecisionJournal
from online_draft.registry.ladder import Choice, decide_with_retry
from online_draft.store import ArtifactStore

root, name, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
journal = DecisionJournal(ArtifactStore(root), "target")
print("ready", flush=True)
sys.stdin.readline()
for number in range(rounds):
    choice = Choice("refuse", f"{name}-{number}", "control")
    made = decide_with_retry(journal, lambda state: choice, attempts=10_000)
    print(made.seq, made.version, flush=True)
"""


def test_of_racing_threads_one_wins_each_number_and_no_decision_is_lost(tmp_path: Path) -> None:
    start = threading.Barrier(6)
    made: list[tuple[int, str | None]] = []

    def write(name: str) -> None:
        journal = DecisionJournal(ArtifactStore(tmp_path), "target")
        start.wait()
        for number in range(ROUNDS):

            def rule(state: LadderState, version: str = f"{name}-{number}") -> Choice:
                return Choice("refuse", version)

            decision = decide_with_retry(journal, rule, attempts=10_000)
            assert decision is not None
            made.append((decision.seq, decision.version))

    threads = [threading.Thread(target=write, args=(f"thread{index}",)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_history(tmp_path, made, writers=6)


def test_of_racing_processes_one_wins_each_number_and_no_decision_is_lost(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), f"process{index}", str(ROUNDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(4)
    ]
    try:
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        made: list[tuple[int, str | None]] = []
        for process in processes:
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 0
            lines = [line.split() for line in output.splitlines()]
            made += [(int(seq), version) for seq, version in lines]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert_history(tmp_path, made, writers=4)


def test_a_reader_beside_racing_writers_never_sees_half_an_entry(tmp_path: Path) -> None:
    done = threading.Event()
    problems: list[Exception] = []
    lengths: list[int] = []

    def read() -> None:
        while not done.is_set():
            try:
                lengths.append(fold(DecisionJournal(ArtifactStore(tmp_path), "target").read()).seq)
            except Exception as error:
                problems.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    journal = DecisionJournal(ArtifactStore(tmp_path), "target")
    for number in range(60):
        decide_with_retry(journal, lambda state, n=number: Choice("refuse", f"v{n}"))  # type: ignore[misc]
    done.set()
    reader.join()
    assert problems == []
    assert lengths == sorted(lengths) and lengths[-1] <= 60


def assert_history(root: Path, made: list[tuple[int, str | None]], writers: int) -> None:
    history = DecisionJournal(ArtifactStore(root), "target").read()
    assert fold(history).refused == writers * ROUNDS == len(made)
    assert [(entry.seq, entry.version) for entry in history] == sorted(made)
    assert len({version for _seq, version in made}) == len(made)
    names = [path.name for path in (root / "registry/target/decisions").iterdir()]
    assert len(names) == len(made)
