"""`cappuccinoctl logs [CHILD] [-f]`: log records as one line each."""

import json
import os
import re
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
NEWEST_ROTATED = ".1"
_IS_LOG = re.compile(r"\.jsonl(\.1)?$")
_HIDDEN = {"ts", "level", "event", "component", "child", "pid", "mono", "schema", "run_id"}


def main(verb: str, argv: list[str]) -> int:
    options = parser(verb, __doc__)
    options.add_argument("child", nargs="?", default="supervisor")
    options.add_argument("-f", "--follow", action="store_true")
    options.add_argument("-n", "--lines", type=at_least_one, default=40)
    arguments = options.parse_args(argv)
    state_dir = arguments.state_dir or configuration(arguments)[1]
    path = state_dir / "logs" / f"{arguments.child}.jsonl"
    known = _known(path.parent)
    if arguments.child not in known:
        raise ConfigurationError(f"no log of {arguments.child!r}", hint=f"known: {', '.join(known) or 'none'}")
    for line in _lines(path, arguments.lines, follow=arguments.follow):
        print(line if arguments.json else _readable(line), flush=True)
    return 0


def _known(logs: Path) -> list[str]:
    """Whose log there is; also of a program that has written nothing since its log was rotated."""
    names = [p.name for p in logs.iterdir()] if logs.is_dir() else []
    return sorted({n.removesuffix(NEWEST_ROTATED).removesuffix(".jsonl") for n in names if _IS_LOG.search(n)})


def _lines(path: Path, last: int, *, follow: bool) -> Iterator[str]:
    *before, newest = (p for p in (path.with_name(path.name + NEWEST_ROTATED), path) if p.exists())
    clock, file = SystemClock(), newest.open(errors="replace")
    try:
        lines = file.readlines()
        if len(lines) < last and before:
            lines = before[0].read_text(errors="replace").splitlines(keepends=True) + lines
        yield from (line.rstrip("\n") for line in lines[-last:])
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
        newer = path.open(errors="replace")
    except FileNotFoundError:  # renamed, and nobody has written since
        return None
    if not os.path.sameopenfile(file.fileno(), newer.fileno()):
        return newer
    newer.close()
    return None


def _readable(line: str) -> str:
    try:
        record: Any = json.loads(line)
    except ValueError:
        return line
    if not isinstance(record, dict):
        return line
    rest = " ".join(f"{k}={v}" for k, v in record.items() if k not in _HIDDEN)
    return f"{record.get('ts', ''):<28}{record.get('level', ''):<9}{record.get('event', '')}  {rest}"
