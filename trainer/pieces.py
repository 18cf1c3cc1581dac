"""Work that several workers share: a piece is a file when it is done, and a held lock while somebody does it.

A worker that dies lets go of its lock, so its piece is taken by the next one that looks; nothing is done twice and nothing
waits for the dead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from features.files import AlreadyRunning, Lock, write_atomic


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """`make` returns the bytes of `path`; making it twice gives the same bytes."""

    path: Path
    make: Callable[[], bytes]


def work_off(pieces: Sequence[Piece], *, wait: Callable[[], None] | None = None) -> bool:
    """Make every piece that nobody else is making. True when all are done.

    With `wait`, call it until those that others make are done too, taking over what a dead one left.
    """
    while True:
        open_pieces = [p for p in pieces if not p.path.exists()]
        taken = [_take(p) for p in open_pieces]
        if all(taken):
            return True
        if wait is None:
            return all(p.path.exists() for p in pieces)
        wait()


def _take(piece: Piece) -> bool:
    """Whether the piece is done now; False while another process makes it."""
    try:
        with Lock(piece.path.with_suffix(".lock")):
            if not piece.path.exists():
                write_atomic(piece.path, piece.make())
    except AlreadyRunning:
        return False
    return True
