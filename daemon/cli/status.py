"""`cappuccinoctl status`: from the socket; from the last written record when the daemon is down. --watch: again and again."""

import json
import os
import select
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from daemon import control
from daemon.cli import parser
from daemon.status.record import Status, last_known, parse
from daemon.status.render import exit_code, render

WATCH_EVERY_S = 2.0
NARROW, WIDE = 48, 100
_ENTER, _LEAVE, _HOME, _CLEAR_BELOW, _CLEAR_RIGHT = (
    "\033[?1049h\033[?25l",
    "\033[?25h\033[?1049l",
    "\033[H",
    "\033[J",
    "\033[K",
)


def main(verb: str, argv: list[str]) -> int:
    options = parser(verb, __doc__)
    options.add_argument("--watch", action="store_true", help="keep drawing it; q or ctrl-C ends")
    arguments = options.parse_args(argv)
    if arguments.state_dir is None:
        from daemon.cli.common import configuration

        _, state_dir = configuration(arguments)
    else:
        state_dir = arguments.state_dir
    if arguments.watch:
        return _watch(state_dir, as_json=arguments.json)
    status = current(state_dir)
    print(_json(status) if arguments.json else render(status, width=_width(), colour=_has_colour(sys.stdout)))
    return exit_code(status)


def current(state_dir: Path) -> Status:
    """The live status, or the last one written, marked as such. Raises DaemonDown where there was never one."""
    try:
        return parse(control.ask(state_dir, "status")["status"])
    except control.DaemonDown as down:
        return _last(state_dir, down)
    except control.NotAnswering as silent:
        return _last(state_dir, silent)


def _last(state_dir: Path, why: control.DaemonDown | control.NotAnswering) -> Status:
    try:
        status = parse(json.loads((state_dir / "status.json").read_bytes()))
    except (OSError, ValueError):
        raise why from None
    age = datetime.now(UTC) - datetime.fromisoformat(status.daemon.written_utc)  # noqa: TID251  shown, not decided on
    return last_known(status, down=isinstance(why, control.DaemonDown), age_s=age.total_seconds())


def _watch(state_dir: Path, *, as_json: bool) -> int:
    """Draw until q or ctrl-C; the exit code of the last status. Without a terminal: one record after another."""
    if as_json or not sys.stdout.isatty():
        while True:
            status = current(state_dir)
            print(_json(status) if as_json else render(status) + "\n", flush=True)
            select.select([], [], [], WATCH_EVERY_S)
    code = 0
    with suppress(KeyboardInterrupt), _screen():
        while True:
            try:
                status = current(state_dir)
                drawn, code = render(status, width=_width(), colour=_has_colour(sys.stdout)), int(exit_code(status))
            except control.DaemonDown as down:
                drawn, code = str(down), down.exit_code
            rows = drawn.splitlines()[: shutil.get_terminal_size().lines - 1]
            text = "".join(f"{row}{_CLEAR_RIGHT}\n" for row in rows)
            sys.stdout.write(_HOME + text + _CLEAR_BELOW)
            sys.stdout.flush()
            if _key(WATCH_EVERY_S) in ("q", "Q"):
                break
    return code


@contextmanager
def _screen() -> Iterator[None]:
    """The terminal's other screen, keys unbuffered; as it was before, however this ends."""
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin) if sys.stdin.isatty() else None
    try:
        if before is not None:
            tty.setcbreak(sys.stdin)
        sys.stdout.write(_ENTER)
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        if before is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _key(within_s: float) -> str:
    """The key that was pressed within the time; "" when none was."""
    if not sys.stdin.isatty():
        select.select([], [], [], within_s)
        return ""
    ready, _, _ = select.select([sys.stdin], [], [], within_s)
    return os.read(sys.stdin.fileno(), 16).decode(errors="replace")[:1] if ready else ""


def _json(status: Status) -> str:
    from dataclasses import asdict

    return json.dumps(asdict(status))


def _width() -> int:
    return min(WIDE, max(NARROW, shutil.get_terminal_size((60, 24)).columns))


def _has_colour(stream: TextIO) -> bool:
    """On a terminal, unless NO_COLOR says otherwise (no-color.org: present and not empty)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
