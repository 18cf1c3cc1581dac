"""`cappuccinoctl run`: the supervisor in the foreground. Its configuration can be read again while it runs (`reload`)."""

import argparse
import os

from daemon.child.clock import SystemClock
from daemon.child.config import Config
from daemon.cli import parser
from daemon.cli.common import begin, configuration


def main(verb: str, argv: list[str]) -> int:
    options = parser(verb, __doc__)
    options.add_argument("--until-finished", action="store_true", help="stop when the study and a replay are done")
    arguments = options.parse_args(argv)
    config, state_dir = configuration(arguments)

    from daemon.supervisor import Doors, Supervisor, log_to

    begin(state_dir)
    log_to(state_dir)
    doors = Doors(clock=SystemClock(), jitter=_uniform, load=lambda: _again(arguments))
    return Supervisor(config=config, state_dir=state_dir, doors=doors, until_finished=arguments.until_finished).run()


def _again(arguments: argparse.Namespace) -> Config:
    return configuration(arguments)[0]


def _uniform() -> float:
    """A number in [0, 1): restarts of several machines must not fall together, so no seed."""
    return int.from_bytes(os.urandom(4), "big") / 2**32
