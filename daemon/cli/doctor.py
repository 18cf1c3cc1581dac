"""`cappuccinoctl doctor`: what is wrong here, and what to do about it. Exit 1 when something must be mended."""

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import asdict

from daemon.child.clock import SystemClock
from daemon.child.logs import configure_logging
from daemon.cli import parser
from daemon.cli.common import configuration_in_force
from daemon.doctor.finding import Finding, ok
from daemon.doctor.judge import exit_code
from daemon.doctor.machine import machine
from daemon.doctor.service import service, venue
from daemon.fleet import specs_of
from features.errors import ConfigurationError

SCHEMA = 1
_MARKS = {"ok": "✔", "warn": "▲", "fail": "✖"}


def main(verb: str, argv: list[str]) -> int:
    options = parser(verb, __doc__)
    options.add_argument("--offline", action="store_true", help="do not ask the venue")
    arguments = options.parse_args(argv)
    findings = []
    for finding in _findings(arguments):
        findings.append(finding)
        if not arguments.json:
            print(_line(finding), flush=True)
    if arguments.json:
        print(json.dumps({"schema": SCHEMA, "findings": [asdict(f) for f in findings]}))
    return exit_code(findings)


def _findings(arguments: argparse.Namespace) -> Iterator[Finding]:
    try:
        config, state_dir = configuration_in_force(arguments)
        specs_of(config, state_dir)  # what `run` and `reload` look at beside it
    except ConfigurationError as error:
        remedy = error.hint or "compare with the shipped config.toml"
        yield Finding(check="configuration", level="fail", text=error.args[0], remedy=remedy)
        yield from machine("cpu")
        return
    yield ok("configuration", f"valid; state in {state_dir}")
    yield from machine(config.study.device)
    yield from service(config, state_dir, SystemClock())
    if arguments.offline:
        return
    print(f"asking {config.market.source} …", file=sys.stderr)
    configure_logging(component="doctor", child="foreground", path=None, level=logging.ERROR)  # the finding says it
    yield from venue(config, SystemClock())


def _line(finding: Finding) -> str:
    text = f"{_MARKS[finding.level]} {finding.check:<14}{finding.text}"
    return text + (f"\n  {'→ ' + finding.remedy}" if finding.remedy else "")
