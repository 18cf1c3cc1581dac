"""`cappuccinoctl stop|drain|start|restart|retry|pause|resume|scale|reload`: ask the running daemon."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from daemon import control
from daemon.child.clock import Clock, SystemClock
from daemon.cli import parser, program
from daemon.cli.common import configuration
from features.errors import CappuccinoError, ConfigurationError

NEED_CHILD = ("start", "restart", "retry")
WAIT_S = 90.0  # a full stop takes 50 s at most, a cold start of the trader 30
POLL_S = 0.2
SETTLED_S = 15.0  # a trader that waits for the first judgement says that it is ready much later
_FAILED = ("fatal", "unkillable")


class NotInTime(CappuccinoError):
    """What was asked for has been accepted, but was not over in time."""


def main(verb: str, argv: list[str]) -> int:
    if verb in ("pause", "resume") and "trading" in argv:
        return program.main(verb, [a for a in argv if a != "trading"])
    options = parser(verb, __doc__)
    if verb in ("stop", *NEED_CHILD):
        options.add_argument("child", nargs="?", default="")
    if verb in ("pause", "resume"):
        options.add_argument("what", nargs="?", choices=["training", "trading"], default="training")
    if verb == "scale":
        options.add_argument("workers", type=int, help="how many workers from now on, until the next reload")
    if verb in ("stop", "drain", "reload", "scale", "restart"):
        options.add_argument("--wait", action="store_true", help="return when it is done")
    arguments = options.parse_args(argv)
    state_dir = _state_dir(verb, arguments)
    child = getattr(arguments, "child", "")
    if verb in NEED_CHILD and not child:
        options.error("which CHILD? cappuccinoctl status lists them")
    before = _pids(state_dir) if getattr(arguments, "wait", False) else {}
    reply = control.ask(state_dir, "stop-child" if verb == "stop" and child else verb, **_given(verb, arguments, child))
    print(json.dumps(reply) if arguments.json else reply["done"])
    if getattr(arguments, "wait", False):
        _wait(verb, reply, child, state_dir, before, SystemClock())
    return 0


def _state_dir(verb: str, arguments: argparse.Namespace) -> Path:
    if arguments.state_dir is not None:
        return Path(arguments.state_dir)
    try:
        return configuration(arguments)[1]
    except ConfigurationError as error:
        if verb == "reload":
            raise CappuccinoError(f"{error}; the daemon keeps its configuration") from error
        raise


def _given(verb: str, arguments: argparse.Namespace, child: str) -> dict[str, Any]:
    if verb == "scale":
        return {"workers": arguments.workers}
    return {"child": child} if child else {}


def _wait(
    verb: str, reply: dict[str, Any], child: str, state_dir: Path, before: dict[str, int | None], clock: Clock
) -> None:  # fmt: skip
    """Until what was asked for is true. Draining takes as long as its trials; everything else WAIT_S at most."""
    until_s = clock.monotonic_s() + (float("inf") if verb == "drain" else WAIT_S)
    fresh = [*reply.get("restarted", ()), *reply.get("added", ()), *([child] if verb == "restart" else [])]
    gone = [*reply.get("removed", ()), *([child] if verb == "stop" and child else [])]
    left, note = list[str](), ""
    while clock.monotonic_s() < until_s:
        try:
            children = {c["name"]: c for c in control.ask(state_dir, "status")["status"]["children"]}
        except control.DaemonDown:
            if verb in ("stop", "drain"):
                return
            raise
        except control.NotAnswering:  # one that is ending hangs up on whoever it has not yet heard
            clock.sleep(POLL_S)
            continue
        if failed := [n for n in fresh if n in children and children[n]["state"] in _FAILED]:
            raise CappuccinoError(f"given up: {', '.join(failed)}", hint=f"cappuccinoctl logs {failed[0]}")
        left = [n for n in fresh if not _is_up(children.get(n), before.get(n))]
        left += [n for n in gone if n in children and children[n]["pid"] is not None]
        if verb != "drain" and not left and (verb != "stop" or child):
            return
        note, told = f"waiting for {', '.join(left) or 'the daemon to end'}", note
        if note != told:
            print(note, file=sys.stderr, flush=True)
        clock.sleep(POLL_S)
    raise NotInTime(f"not over within {WAIT_S:g} s: {', '.join(left) or verb}", hint="see cappuccinoctl status")


def _is_up(child: dict[str, Any] | None, old_pid: int | None) -> bool:
    """A new process that has finished starting, or has at least not died of what it found when it started."""
    if child is None or child["pid"] == (old_pid or -1):
        return False
    settled = child["state"] in ("finished", "stopped") and child["next_start_s"] is None
    return settled or (child["state"] in ("running", "draining") and (child["ready"] or child["for_s"] > SETTLED_S))


def _pids(state_dir: Path) -> dict[str, int | None]:
    return {c["name"]: c["pid"] for c in control.ask(state_dir, "status")["status"]["children"]}
