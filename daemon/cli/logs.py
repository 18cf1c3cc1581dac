"""`cappuccinoctl logs [CHILD] [-f]`: log records as one line each."""

import json
import os
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from daemon.child.clock import SystemClock
from daemon.child.usage import at_least_one
from daemon.cli import parser
from daemon.cli.common import configuration
from features.errors import ConfigurationError

POLL_S = 0.3
_HIDDEN = {"ts", "level", "event", "component", "child", "pid", "mono", "schema", "run_id"}


def main(verb: str, argv: list[str]) -> int:
    options = parser(verb, __doc__)
    options.add_argument("child", nargs="?", default="supervisor")
    options.add_argument("-f", "--follow", action="store_true")
    options.add_argument("-n", "--lines", type=at_least_one, default=40)
    arguments = options.parse_args(argv)
    state_dir = arguments.state_dir or configuration(arguments)[1]
    path = state_dir / "logs" / f"{arguments.child}.jsonl"
    known = sorted(p.stem for p in path.parent.iterdir() if p.suffix == ".jsonl") if path.parent.is_dir() else []
    if arguments.child not in known:
        raise ConfigurationError(f"no log of {arguments.child!r}", hint=f"known: {', '.join(known) or 'none'}")
    for line in _lines(path, arguments.lines, follow=arguments.follow):
        print(line if arguments.json else _readable(line), flush=True)
    return 0


def _lines(path: Path, last: int, *, follow: bool) -> Iterator[str]:
    clock, file = SystemClock(), path.open()
    try:
        yield from (line.rstrip("\n") for line in file.readlines()[-last:])
        while follow:
            newer = _newer(path, file)
            clock.sleep(POLL_S)  # a writer that looked at the path before the rotation has written by then
            yield from (line.rstrip("\n") for line in iter(file.readline, ""))
            if newer is not None:
                file.close()
                file = newer
    finally:
        file.close()


def _newer(path: Path, file: TextIOWrapper) -> TextIOWrapper | None:
    """The file that stands at `path` by now, if that is another one: logs are rotated by renaming."""
    try:
        newer = path.open()
    except FileNotFoundError:  # renamed, and nobody has written since
        return None
    if not os.path.sameopenfile(file.fileno(), newer.fileno()):
        return newer
    newer.close()
    return None


def _readable(line: str) -> str:
    try:
        record: dict[str, Any] = json.loads(line)
    except ValueError:
        return line
    rest = " ".join(f"{k}={v}" for k, v in record.items() if k not in _HIDDEN)
    return f"{record.get('ts', ''):<28}{record.get('level', ''):<9}{record.get('event', '')}  {rest}"
