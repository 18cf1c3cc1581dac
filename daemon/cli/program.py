"""Verbs that another program performs: it runs as a child process with the same options."""

import os
import subprocess
import sys

from daemon.child.usage import CALLED
from daemon.cli import parser
from daemon.cli.common import begin, configuration, names_one
from features.errors import ConfigurationError
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


def main(verb: str, argv: list[str]) -> int:
    module, *rest = _COMMANDS[verb]
    program, said = [sys.executable, "-P", "-m", module, *rest], os.environ | {CALLED: f"cappuccinoctl {verb}"}
    if {"-h", "--help"} & set(argv):
        return subprocess.run([*program, "--help"], check=False, env=said).returncode
    arguments, extra = parser(verb, "").parse_known_args(argv)
    config, state_dir = configuration(arguments)
    if verb not in _BEGIN and not state_dir.is_dir():
        raise ConfigurationError(f"there is nothing at {state_dir}", hint="--state-dir names another; `run` begins one")
    record = state_dir / "config.json"
    if not record.exists() or names_one(arguments):
        record = state_dir / "run" / f"{verb}.json"  # its own: the daemon's children read config.json when restarted
        begin(state_dir)
        write_atomic(record, config.to_json().encode())
    given = ["--config", str(record), "--state-dir", str(state_dir), *(["--json"] if arguments.json else [])]
    return subprocess.run([*program, *given, *extra], check=False, env=said).returncode
