"""What an operator asks of the paper account: lines in a file that the trader takes up between two bars, each once."""

from dataclasses import dataclass
from pathlib import Path

from daemon.child.clock import Clock
from daemon.child.room import needs_room
from features.files import Lock, append_jsonl, read_jsonl
from paper_trader.session import Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    number: int
    command: Command


def ask(state_dir: Path, command: Command, clock: Clock) -> Request:
    """Durable before it returns, whether a trader runs or not. Raises NoRoom."""
    path = _path(state_dir)
    with needs_room(state_dir), Lock(path.with_suffix(".lock"), wait=True):
        number = len(read_jsonl(path)) + 1
        append_jsonl(path, {"number": number, "command": command, "at_utc": clock.now_utc().isoformat()})
    return Request(number=number, command=command)


class Requests:
    """The trader's side: what was asked since request number `after`."""

    def __init__(self, state_dir: Path, *, after: int) -> None:
        self._path, self._after, self._size = _path(state_dir), after, -1

    def new(self) -> list[Request]:
        size = self._path.stat().st_size if self._path.exists() else 0
        if size == self._size:
            return []
        self._size = size
        found = [Request(number=r["number"], command=Command(r["command"])) for r in read_jsonl(self._path)]
        found = [r for r in found if r.number > self._after]
        self._after = max([self._after, *(r.number for r in found)])
        return found


def _path(state_dir: Path) -> Path:
    return state_dir / "paper" / "operator.jsonl"
