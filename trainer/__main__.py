"""`python -m trainer VERB`: work, and what a person asks of the search (`trainer.verbs`)."""

import argparse
import itertools
import sys

import structlog

from daemon.child.clock import SystemClock
from daemon.child.config import Config, load_config
from daemon.child.exits import EXIT_RECYCLE
from daemon.child.holds import worker_number
from daemon.child.locks import sole
from daemon.child.logs import configure_logging, get_logger
from daemon.child.progress import Progress
from daemon.child.stopping import StopRequest
from daemon.child.usage import Parser, at_least_one, called, child_options
from features.errors import CappuccinoError
from trainer.verbs import VERBS, require_own


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        config = load_config(arguments.config)
        return {"work": work, **VERBS}[arguments.verb](config, arguments)
    except CappuccinoError as error:
        print(f"{called(f'trainer {arguments.verb}')}: {error}", file=sys.stderr)
        if structlog.is_configured():
            get_logger().error("trainer.failed", verb=arguments.verb, error=str(error))
        return error.exit_code


def work(config: Config, arguments: argparse.Namespace) -> int:
    """Run trials until the study has its target, judging when that is due."""
    import optuna

    from trainer.dataset import awaited_dataset
    from trainer.policy import prepare
    from trainer.worker import Worker

    state_dir, name = arguments.state_dir, arguments.name
    require_own(state_dir, config.study.name)
    clock, progress, stop = SystemClock(), Progress.from_environment(), StopRequest()
    with sole(state_dir / "run" / f"{name}.lock"):
        configure_logging(component="trainer", child=name, path=state_dir / "logs" / f"{name}.jsonl")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        prepare(config.daemon.torch_threads, config.study.device, worker=worker_number(name))
        reads = itertools.count()
        dataset = awaited_dataset(
            config, state_dir, clock, log=get_logger(), should_stop=lambda: stop.finish_requested,
            tell=lambda note: progress.beat(done=next(reads), unit="reads", note=note),
        )  # fmt: skip
        if dataset is None:
            return 0
        worker = Worker(
            config=config, state_dir=state_dir, name=name, dataset=dataset, clock=clock, progress=progress,
            log=get_logger(), should_stop=lambda: stop.requested, should_finish=lambda: stop.finish_requested,
        )  # fmt: skip
        progress.ready()
        worker.run()
    return EXIT_RECYCLE if worker.recycle else 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog=called("trainer"), description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, run in {"work": work, **VERBS}.items():
        verb = verbs.add_parser(name, help=run.__doc__, description=run.__doc__, prog=called(f"trainer {name}"))
        child_options(verb, "" if name == "import-study" else f"foreground-{name}")
    for name in ("trials", "show", "export", "promote", "backtest", "focus", "import-study"):
        verbs.choices[name].add_argument("--study", default="", help="which study, where a number alone is ambiguous")
    for name in ("show", "export", "backtest"):
        verbs.choices[name].add_argument("trial", type=int)
    verbs.choices["focus"].add_argument("--trial", type=int, default=None, help="this one again, on ten seeds")
    verbs.choices["trials"].add_argument("--top", type=at_least_one, default=20)
    verbs.choices["trials"].add_argument("--all", action="store_true", help="those without a score too")
    verbs.choices["promote"].add_argument("candidate", help="a trial's number, or the beginning of an artifact's id")
    verbs.choices["backtest"].add_argument("--fee-bps", type=float, default=None, help="per side; the configured fee")
    verbs.choices["import-study"].add_argument("database", help="SQLite file, or the URL of Optuna's storage")
    return parser


if __name__ == "__main__":
    sys.exit(main())
