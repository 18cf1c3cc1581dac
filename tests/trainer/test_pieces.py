"""Shared work: every piece is made once, by whoever is alive."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from trainer.pieces import Piece, work_off


def pieces(folder: Path, made: list[str], n: int = 4) -> list[Piece]:
    def maker(name: str) -> bytes:
        made.append(name)
        return name.encode()

    return [Piece(path=folder / f"{i}.txt", make=lambda i=i: maker(str(i))) for i in range(n)]


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    made: list[str] = []
    assert work_off(pieces(tmp_path, made)) and work_off(pieces(tmp_path, made))
    assert Counter(made) == {"0": 1, "1": 1, "2": 1, "3": 1}
    assert (tmp_path / "2.txt").read_bytes() == b"2"


def test_a_piece_that_a_killed_process_held_is_taken_over_and_until_then_left_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from trainer.pieces import Piece, work_off\n"
        "def make():\n print('making', flush=True); sys.stdin.read()\n"
        f"work_off([Piece(path=Path({str(tmp_path)!r}) / '1.txt', make=make)])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "making\n"
        made: list[str] = []
        assert not work_off(pieces(tmp_path, made)) and made == ["0", "2", "3"]
        waited = []

        def wait() -> None:
            waited.append(1)
            os.kill(other.pid, signal.SIGKILL)
            other.wait()

        assert work_off(pieces(tmp_path, made), wait=wait) and made[-1] == "1" and waited
