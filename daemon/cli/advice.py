"""`cappuccinoctl advice list | show NAME | adopt NAME | retract NAME`: what the advisor tries, and a person's word on it."""

import json

from daemon.advisor.advice_text import listing, page
from daemon.advisor.desk import Desk, finished_trials
from daemon.child.clock import SystemClock
from daemon.child.logs import configure_logging, get_logger
from daemon.cli import parser
from daemon.cli.common import configuration_in_force
from features.errors import ConfigurationError


def main(verb: str, argv: list[str]) -> int:
    options = parser(verb, __doc__)
    options.add_argument("action", choices=("list", "show", "adopt", "retract"), nargs="?", default="list")
    options.add_argument("name", nargs="?", default="", help="of an experiment or a proposal, as listed")
    arguments = options.parse_args(argv)
    if (arguments.action == "list") == bool(arguments.name):
        options.error("list takes no NAME; show, adopt and retract need one")
    config, state_dir = configuration_in_force(arguments)
    study = config.study.name
    if not (state_dir / "trials" / study).is_dir():
        raise ConfigurationError(f"there is no study {study!r} in {state_dir}", hint="name it with --set study.name=…")
    configure_logging(component="advisor", child="advice", path=state_dir / "logs" / "advice.jsonl")
    desk = Desk(
        state_dir=state_dir, study=study, clock=SystemClock(), log=get_logger(), target=config.study.target_trials,
        share=config.advisor.trial_share,
    )  # fmt: skip
    if arguments.action == "list":
        book = desk.book()
        print(json.dumps(book.to_dict()) if arguments.json else listing(book))
        return 0
    match arguments.action:
        case "adopt":
            found = desk.adopt(arguments.name, finished=finished_trials(state_dir, study))
        case "retract":
            found = desk.retract(arguments.name, finished=finished_trials(state_dir, study))
        case _:
            found = desk.find(arguments.name)
    print(json.dumps(found.to_dict()) if arguments.json else page(found))
    return 0
