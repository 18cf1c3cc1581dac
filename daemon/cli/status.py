"""`cappuccinoctl status`: from the socket; from the last written record when the daemon is down."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from daemon import control, status
from daemon.cli import parser


def main(verb: str, argv: list[str]) -> int:
    options = parser(verb, __doc__)
    arguments = options.parse_args(argv)
    if arguments.state_dir is None:
        from daemon.cli.common import configuration

        _, state_dir = configuration(arguments)
    else:
        state_dir = arguments.state_dir
    record = current(state_dir)
    print(json.dumps(record) if arguments.json else status.render(record))
    return status.exit_code(record)


def current(state_dir: Path) -> dict[str, Any]:
    """The live status, or the last one written, marked as such."""
    try:
        live: dict[str, Any] = control.ask(state_dir, "status")["status"]
    except control.DaemonDown as down:
        last = _last(state_dir, down)
        return {**last, "children": [{**c, "state": "down", "pid": None} for c in last["children"]]}
    except control.NotAnswering as silent:
        return _last(state_dir, silent)
    return live


def _last(state_dir: Path, why: control.DaemonDown | control.NotAnswering) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((state_dir / "status.json").read_bytes())
    except (OSError, ValueError):
        raise why from None
    record["daemon"]["down" if isinstance(why, control.DaemonDown) else "stale"] = True
    age = datetime.now(UTC) - datetime.fromisoformat(record["daemon"]["written_utc"])  # noqa: TID251  shown, not decided on
    record["daemon"]["age_s"] = round(age.total_seconds(), 1)
    return record
