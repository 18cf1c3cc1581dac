"""`python -m paper_trader VERB`: run the account, look at it, prove it, steer it."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict

import structlog

from daemon.child.clock import SystemClock
from daemon.child.config import Config, load_config
from daemon.child.locks import sole
from daemon.child.logs import configure_logging, get_logger
from daemon.child.market import costs
from daemon.child.progress import Progress
from daemon.child.stopping import StopRequest
from daemon.child.usage import Parser, at_least_one, called, child_options, file_to_write
from features.errors import CappuccinoError
from paper_trader import drill as drills
from paper_trader import operator, risk, shown
from paper_trader.loop import Trader
from paper_trader.session import Command


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        config = load_config(arguments.config)
        code: int = arguments.perform(config, arguments)
    except CappuccinoError as error:
        print(f"{called(f'paper_trader {arguments.verb}')}: {error}", file=sys.stderr)
        if structlog.is_configured():
            get_logger().error("trader.failed", verb=arguments.verb, error=str(error))
        return error.exit_code
    return code


def run(config: Config, arguments: argparse.Namespace) -> int:
    """Trade until stopped, or until a replay ends."""
    state_dir, name = arguments.state_dir, arguments.name
    stop = StopRequest()
    with sole(state_dir / "run" / "paper_trader.lock"):  # never two traders
        configure_logging(component="paper_trader", child=name, path=state_dir / "logs" / f"{name}.jsonl")
        Trader(
            config=config, state_dir=state_dir, clock=SystemClock(), progress=Progress.from_environment(),
            log=get_logger(), should_stop=lambda: stop.requested,
        ).run()  # fmt: skip
    return 0


def told(command: Command, says: str) -> Callable[[Config, argparse.Namespace], int]:
    def perform(_: Config, arguments: argparse.Namespace) -> int:
        request = operator.ask(arguments.state_dir, command, SystemClock())
        shown.say({"number": request.number, "command": str(command)}, says, as_json=arguments.json)
        return 0

    return perform


def drill(config: Config, arguments: argparse.Namespace) -> int:
    """Let a shadow account fall until the kill switch stops it; exit 1 when it does not."""
    limits = risk.Limits(**asdict(config.risk))
    result = drills.kill_switch(limits, costs(config), arguments.state_dir / "paper")
    record = drills.recorded(arguments.state_dir, result, SystemClock())
    verdict = "passed" if result.passed else "FAILED"
    shown.say(record, f"kill-switch drill {verdict}: {result.text}", as_json=arguments.json)
    return 0 if result.passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog=called("paper_trader"), description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    soon = "the trader takes it up before its next bar, or when it is started"
    performers: dict[str, Callable[[Config, argparse.Namespace], int]] = {
        "run": run, "drill": drill, "verify": shown.verify, "report": shown.report, "paper": shown.paper,
        "positions": shown.positions, "orders": shown.orders,
        "pause": told(Command.PAUSE, f"no new decisions from now on; {soon}"),
        "resume": told(Command.RESUME, f"decisions again; {soon}"),
        "flatten": told(Command.FLATTEN, f"everything is sold, then nothing bought until `resume trading`; {soon}"),
        "rearm": told(Command.REARM, f"the halt is forgotten, drawdowns count from here; {soon}"),
    }  # fmt: skip
    for name, function in performers.items():
        said = called(f"paper_trader {name}")
        verb = verbs.add_parser(name, help=function.__doc__, description=function.__doc__, prog=said)
        verb.set_defaults(perform=function)
        child_options(verb, f"foreground-{name}")
        if name == "drill":
            verb.add_argument("what", choices=["kill-switch"])
        if name == "verify":
            verb.add_argument("--since", default="", metavar="UTC", help="only what was settled from then on")
        if name == "report":
            either = verb.add_mutually_exclusive_group()
            either.add_argument("--html", type=file_to_write, metavar="FILE", help="write the equity curves as well")
            either.add_argument("--drift", action="store_true", help="against a replay of its policy, by source")
        if name == "orders":
            verb.add_argument("--last", type=at_least_one, default=20, help="so many of the newest")
    return parser


if __name__ == "__main__":
    sys.exit(main())
