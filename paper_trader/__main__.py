"""`python -m paper_trader VERB`: run, verify, report, rearm."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from daemon.child.clock import SystemClock
from daemon.child.config import Config, load_config
from daemon.child.locks import sole
from daemon.child.logs import configure_logging, get_logger
from daemon.child.progress import Progress
from daemon.child.stopping import StopRequest
from features.errors import CappuccinoError
from paper_trader import report as reporting
from paper_trader.journal import Journal
from paper_trader.loop import Trader
from paper_trader.parity import verify as verify_journal


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        config = load_config(arguments.config)
        return {"run": run, "verify": verify, "report": report, "rearm": rearm}[arguments.verb](config, arguments)
    except CappuccinoError as error:
        print(f"paper_trader {arguments.verb}: {error}", file=sys.stderr)
        get_logger().error("trader.failed", verb=arguments.verb, error=str(error))
        return error.exit_code


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


def verify(_: Config, arguments: argparse.Namespace) -> int:
    """Re-derive every decision, fill and mark of the journal by the training path; exit 78 on any difference."""
    journal = Journal(arguments.state_dir / "paper" / "journal.db", read_only=True)
    result = verify_journal(journal, arguments.state_dir / "artifacts")
    if arguments.json:
        print(json.dumps(asdict(result)))
    else:
        print(
            f"{result.decisions} decisions, {result.fills} fills and {result.marks} account marks re-derived from the "
            f"stored bars by the training path: {len(result.mismatches)} mismatches"
        )
        print("".join(f"  {line}\n" for line in result.mismatches[:20]), end="")
    return 78 if result.mismatches else 0


def report(_: Config, arguments: argparse.Namespace) -> int:
    """Paper equity beside the baselines on the same bars."""
    journal = Journal(arguments.state_dir / "paper" / "journal.db", read_only=True)
    lines = reporting.lines(journal)
    print(json.dumps([asdict(x) for x in lines]) if arguments.json else reporting.text(lines))
    return 0


def rearm(_: Config, arguments: argparse.Namespace) -> int:
    """Clear a latched halt; the running trader must be restarted to see it."""
    journal = Journal(arguments.state_dir / "paper" / "journal.db")
    journal.rearm()
    print("the halt is cleared; `cappuccinoctl restart paper_trader` lets a running trader see it")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="paper_trader", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, function in (("run", run), ("verify", verify), ("report", report), ("rearm", rearm)):
        verb = verbs.add_parser(name, help=function.__doc__)
        verb.add_argument("--config", type=Path, required=True)
        verb.add_argument("--state-dir", type=Path, required=True)
        verb.add_argument("--name", default=f"foreground-{name}")
        verb.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
