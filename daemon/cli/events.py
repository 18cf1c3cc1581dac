"""`cappuccinoctl events [CHILD]`: what happened to the children, from supervisor.db; also when the daemon is down."""

import json

from daemon.child.usage import at_least_one
from daemon.cli import parser
from daemon.cli.common import configuration, require_begun
from daemon.history import read_crashes, read_events


def main(verb: str, argv: list[str]) -> int:
    options = parser(verb, __doc__)
    options.add_argument("child", nargs="?", default="")
    options.add_argument("-n", "--lines", type=at_least_one, default=40)
    options.add_argument(
        "--crash", action="store_true", help="the newest crash with the last output, stack dump included"
    )
    arguments = options.parse_args(argv)
    state_dir = arguments.state_dir or configuration(arguments)[1]
    require_begun(state_dir)
    path = state_dir / "supervisor.db"
    if arguments.crash:
        records = read_crashes(path, child=arguments.child)
        texts = [
            f"{r['at_utc']}  {r['child']}  pid {r['pid']}  code {r['code']}  up {r['up_s']} s\n{r['output']}"
            for r in records
        ]
    else:
        records = read_events(path, child=arguments.child, last=arguments.lines)
        texts = [_line(r) for r in records]
    for record, text in zip(records, texts, strict=True):
        print(json.dumps(record) if arguments.json else text)
    if not records and not arguments.json:
        whose = f" of {arguments.child}" if arguments.child else ""
        print(f"no crash{whose} is on record" if arguments.crash else f"no event{whose} is on record")
    return 0


def _line(record: dict[str, object]) -> str:
    facts = " ".join(f"{k}={v}" for k, v in record.items() if k not in ("at_utc", "event", "child"))
    return f"{record['at_utc']:<34}{record['event']:<20}{record['child']:<14}{facts}"
