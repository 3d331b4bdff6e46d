"""Faults of files: bytes that were changed, and files caught in the middle of being replaced."""

import json
import random
import time
from pathlib import Path

from tests.faults.harness import EMITTED, STEP, Board, Child, Outcome, count_warnings, make_record
from tunrex_jax_monitor.host.files import write_atomically
from tunrex_jax_monitor.host.rundir import read_manifest, read_records, write_manifest
from tunrex_jax_monitor.host.sinks.jsonl import JsonlSink


def corrupt(rng: random.Random, folder: Path) -> Outcome:
    """Bytes of a run are changed, cut or added: it is read, or refused by a ValueError that says where."""
    outcome = Outcome()
    count_warnings(Board())
    sink = JsonlSink(folder)
    sink.begin_run({"config": {"reward_names": ["a"]}})
    for step in range(8):
        sink.write(make_record(random.Random(step), step))
    sink.close()
    path = folder / rng.choice(("records.jsonl", "records.jsonl", "manifest.json"))
    path.write_bytes(_damaged(rng, path.read_bytes()))
    for read in (read_records, read_manifest, _go_on):
        try:
            read(folder)
            outcome.kept += 1
        except ValueError as error:
            outcome.expect(": got " in str(error) and "allowed" in str(error), f"{read.__name__}: {error}")
        outcome.emitted += 1
    return outcome


def _go_on(folder: Path) -> None:
    sink = JsonlSink(folder, resume=True)
    try:
        sink.write(make_record(random.Random(8), 8))
    finally:
        sink.close()


def _damaged(rng: random.Random, data: bytes) -> bytes:
    at, size = rng.randrange(len(data)), rng.randrange(1, 40)
    noise = rng.randbytes(size)
    kind = rng.randrange(5)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + noise + data[at + size :]
    if kind == 2:
        return data[:at] + noise + data[at:]
    if kind == 3:
        return data[:at] + data[at + size :]
    return data + rng.choice((b"\x00" * 512, b"[" * 100_000, b"\n\n", b"{}\n", noise))


def replace(rng: random.Random, folder: Path) -> Outcome:
    """A process that replaces files all the time is killed: each is the old one or the new one, whole."""
    board, outcome = Board(), Outcome()

    def rewrite() -> None:
        for n in range(1, 10**6):
            board[EMITTED] = n
            size = rng.randrange(1, 60_000)
            write_manifest(folder, {"config": {"n": n, "text": "x" * size, "size": size}})
            write_atomically(folder / "data.json", json.dumps({"n": n, "text": "y" * size, "size": size}))
            board[STEP] = n

    start = time.monotonic()
    child = Child(rewrite, folder)
    wanted = rng.randrange(1, 6)
    child.wait(lambda: board[STEP] >= wanted)
    time.sleep(rng.random() * (time.monotonic() - start) / wanted)  # anywhere in a round, however slow the disk is
    child.kill()
    outcome.expect(child.wait() and child.status == -9, f"the child ended with {child.status}")
    outcome.emitted = board[EMITTED]
    for found in (read_manifest(folder)["config"], json.loads((folder / "data.json").read_text())):
        outcome.expect(len(found["text"]) == found["size"], "a part of a file")
        outcome.expect(board[STEP] <= found["n"] <= board[EMITTED], f"{found['n']} is neither old nor new")
        outcome.lost += max(0, board[STEP] - found["n"])
    outcome.kept = board[STEP]
    return outcome
