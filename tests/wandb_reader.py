"""Read an offline W&B run back: wandb itself ships no reader of its own log any more.

The file is a 7-byte header and a LevelDB log: 32 KiB blocks of chunks, each crc32(type + payload), uint16 length, type
(1 whole, 2 first, 3 middle, 4 last). The header counts towards the first block.
"""

import dataclasses
import json
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEAD = 32768, 7


@dataclasses.dataclass
class Run:
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    metrics: dict[str, str] = dataclasses.field(default_factory=dict)  # key: its x axis
    alerts: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    tags: list[str] = dataclasses.field(default_factory=list)
    finished: bool = False

    def series(self, key: str) -> list[Any]:
        return [row[key] for row in self.history if key in row]


def read(folder: Path, timeout_seconds: float = 30.0) -> Run:
    """Read the only run below a folder, once its exit record is there: `finish` returns before the file is whole."""
    end = time.monotonic() + timeout_seconds
    while True:
        (path,) = folder.rglob("run-*.wandb")
        run = _read(path)
        if run.finished or time.monotonic() > end:
            return run
        time.sleep(0.05)


def _read(path: Path) -> Run:
    from wandb.proto import wandb_internal_pb2

    run = Run()
    for payload in _payloads(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(payload)
        match record.WhichOneof("record_type"):
            case "run":
                _update(run.config, record.run.config.update)
                run.tags = list(record.run.tags)
            case "config":
                _update(run.config, record.config.update)
            case "history":
                _update(row := {}, record.history.item)
                run.history.append(row)
            case "summary":
                _update(run.summary, record.summary.update)
            case "metric":
                run.metrics[record.metric.name] = record.metric.step_metric
            case "alert":
                run.alerts.append((record.alert.title, record.alert.text))
            case "exit":
                run.finished = True
    return run


def _payloads(data: bytes) -> Iterator[bytes]:
    at, parts = HEAD, b""
    while at + HEAD <= len(data):
        if (left := BLOCK - at % BLOCK) < HEAD:
            at += left
            continue
        crc, size, kind = struct.unpack_from("<IHB", data, at)
        body = data[at + HEAD : at + HEAD + size]
        if len(body) < size or zlib.crc32(body, zlib.crc32(bytes([kind]))) & 0xFFFFFFFF != crc:
            return  # the end that is being written
        at += HEAD + size
        parts += body
        if kind in (1, 4):
            yield parts
            parts = b""


def _update(tree: dict[str, Any], items: Any) -> None:
    for item in items:
        *parents, last = list(item.nested_key) or [item.key]
        leaf = tree
        for parent in parents:
            leaf = leaf.setdefault(parent, {})
        leaf[last] = json.loads(item.value_json)
