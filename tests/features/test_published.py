"""A published file under the deaths of its writers."""

import json
import multiprocessing
import time
from pathlib import Path

from features.files import publish


def _writer(path: Path) -> None:
    number = 0
    while True:
        number += 1
        publish(path, json.dumps({"number": number, "padding": "x" * 500_000}).encode())


def test_a_reader_sees_whole_records_alone_and_a_killed_writer_leaves_nothing_that_its_successor_does_not_take(
    tmp_path: Path,
) -> None:
    path = tmp_path / "shown" / "status.json"
    spawn = multiprocessing.get_context("spawn")
    left_behind = reads = 0
    for life in range(200):
        if life >= 8 and left_behind and reads > 100:
            break
        writer = spawn.Process(target=_writer, args=(path,))
        before = path.stat().st_mtime_ns if path.exists() else 0
        writer.start()
        while not path.exists() or path.stat().st_mtime_ns == before:
            time.sleep(0.001)
        until = time.monotonic() + 0.02 + 0.0007 * life
        while time.monotonic() < until:
            assert json.loads(path.read_bytes())["number"] > 0
            reads += 1
        writer.kill()
        writer.join()
        json.loads(path.read_bytes())
        left_behind += len(list(path.parent.glob(".*")))
    assert left_behind > 0 and reads > 100  # a life did end between draft and replacement

    publish(path, b"{}")
    assert [p.name for p in path.parent.iterdir()] == ["status.json"] and path.read_bytes() == b"{}"
