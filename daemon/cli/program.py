"""Verbs that another program performs: this process becomes it, so that every signal reaches who does the work."""

import os
import sys
from typing import NoReturn

from daemon.child.usage import CALLED
from daemon.cli import parser
from daemon.cli.common import begin, configuration, names_one, require_begun
from daemon.processes import LARGE_PAGES
from features.files import write_atomic

# verb → command line after `python -m`
_PAPER = ("paper", "positions", "orders", "verify", "report", "flatten", "rearm", "drill", "pause", "resume")
_COMMANDS = {
    "train": ("trainer", "work"),
    "validate": ("trainer", "judge"),
    "trials": ("trainer", "trials"),
    "show": ("trainer", "show"),
    "export": ("trainer", "export"),
    "backtest": ("trainer", "backtest"),
    "promote": ("trainer", "promote"),
    "demote": ("trainer", "demote"),
    "rollback": ("trainer", "rollback"),
    "focus": ("trainer", "focus"),
    "import-study": ("trainer", "import-study"),
    "bench": ("trainer", "bench"),
    **{verb: ("paper_trader", verb) for verb in _PAPER},
    "advise": ("daemon.advisor", "--once"),
    "notify": ("daemon.notifier", "--test"),
    "janitor": ("daemon.janitor", "--once"),
}
_BEGIN = frozenset({"train", "bench", "import-study", "notify"})  # what makes sense before there is anything


def main(verb: str, argv: list[str]) -> NoReturn:
    if {"-h", "--help"} & set(argv):
        _become(verb, "--help")
    arguments, extra = parser(verb, "").parse_known_args(argv)
    config, state_dir = configuration(arguments)
    if verb not in _BEGIN:
        require_begun(state_dir)
    record = state_dir / "config.json"
    if not record.exists() or names_one(arguments):
        record = state_dir / "run" / f"{verb}.json"  # its own: the daemon's children read config.json when restarted
        begin(state_dir)
        write_atomic(record, config.to_json().encode())
    given = ["--config", str(record), "--state-dir", str(state_dir), *(["--json"] if arguments.json else [])]
    _become(verb, *given, *extra)


def _become(verb: str, *options: str) -> NoReturn:
    module, *rest = _COMMANDS[verb]
    command = [sys.executable, "-P", "-m", module, *rest, *options]
    tuned = LARGE_PAGES if module == "trainer" else {}
    sys.stdout.flush()
    os.execve(sys.executable, command, tuned | os.environ | {CALLED: f"cappuccinoctl {verb}"})  # noqa: S606  no shell is wanted
