"""Verbs that another program performs: it runs as a child process with the same options."""

import argparse
import subprocess
import sys

from daemon.cli import parser
from daemon.cli.common import configuration
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


def main(verb: str, argv: list[str]) -> int:
    options = parser(verb, f"runs {' '.join(_COMMANDS[verb])}; its own options follow")
    arguments, extra = options.parse_known_args(argv)
    config, state_dir = configuration(arguments)
    record = state_dir / "config.json"
    if not record.exists() or _changed(arguments):
        record = state_dir / "run" / f"{verb}.json"  # its own: the daemon's children read config.json when restarted
        write_atomic(record, config.to_json().encode())
    module, *rest = _COMMANDS[verb]
    command = [sys.executable, "-P", "-m", module, *rest, "--config", str(record), "--state-dir", str(state_dir)]
    return subprocess.run([*command, *(["--json"] if arguments.json else []), *extra], check=False).returncode


def _changed(arguments: argparse.Namespace) -> bool:
    """Whether the caller named a configuration: otherwise the one the daemon last ran with is used."""
    return bool(arguments.config or arguments.overrides)
