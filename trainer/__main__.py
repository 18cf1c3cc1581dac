"""`python -m trainer VERB`: work, judge, trials, export."""

import argparse
import itertools
import json
import sys
from pathlib import Path

import structlog

from daemon.child.clock import SystemClock
from daemon.child.config import Config, load_config
from daemon.child.exits import EXIT_RECYCLE
from daemon.child.locks import sole
from daemon.child.logs import configure_logging, get_logger
from daemon.child.progress import Progress
from daemon.child.stopping import StopRequest
from features.errors import CappuccinoError, ConfigurationError


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        config = load_config(arguments.config)
        verb = {"work": work, "judge": judge, "trials": trials, "export": export}[arguments.verb]
        return verb(config, arguments)
    except CappuccinoError as error:
        print(f"trainer {arguments.verb}: {error}", file=sys.stderr)
        structlog.get_logger().error("trainer.failed", verb=arguments.verb, error=str(error))
        return error.exit_code


def work(config: Config, arguments: argparse.Namespace) -> int:
    """Run trials until the study has its target, judging when that is due."""
    import optuna
    import torch

    from trainer.dataset import load_dataset
    from trainer.worker import Worker

    state_dir, name = arguments.state_dir, arguments.name
    clock, progress, stop = SystemClock(), Progress.from_environment(), StopRequest()
    with sole(state_dir / "run" / f"{name}.lock"):
        configure_logging(component="trainer", child=name, path=state_dir / "logs" / f"{name}.jsonl")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        torch.set_num_threads(config.daemon.torch_threads)
        reads = itertools.count()
        dataset = load_dataset(
            config, state_dir, clock, beat=lambda: progress.beat(done=next(reads), unit="reads", note="loading data")
        )
        worker = Worker(
            config=config, state_dir=state_dir, name=name, dataset=dataset, clock=clock, progress=progress,
            log=get_logger(), should_stop=lambda: stop.requested, should_finish=lambda: stop.finish_requested,
        )  # fmt: skip
        progress.ready()
        worker.run()
    return EXIT_RECYCLE if worker.recycle else 0


def judge(config: Config, arguments: argparse.Namespace) -> int:
    """Judge the study's best trial now and print the verdict."""
    from trainer.dataset import load_dataset
    from trainer.promote import Judge

    clock, progress = SystemClock(), Progress.from_environment()
    configure_logging(component="trainer", child="judge", path=arguments.state_dir / "logs" / "judge.jsonl")
    dataset = load_dataset(config, arguments.state_dir, clock)
    judgement = Judge(
        config=config, state_dir=arguments.state_dir, dataset=dataset, clock=clock,
        beat=lambda note: progress.beat(done=0, unit="judge", note=note),
    ).judge()  # fmt: skip
    print(json.dumps(judgement.to_dict()) if arguments.json else judgement.text())
    return 0


def trials(config: Config, arguments: argparse.Namespace) -> int:
    """List the study's scored trials, best first."""
    from trainer.promote import completed_trials
    from trainer.worker import describe

    records = completed_trials(arguments.state_dir, config.study.name)[: arguments.top]
    if arguments.json:
        print(json.dumps(records))
    else:
        print("\n".join(describe(config.study.name, r) for r in records) or "no completed trial")
    return 0


def export(config: Config, arguments: argparse.Namespace) -> int:
    """Print the artifact directory of a trial, named by study and number."""
    from trainer.study import trial_dir

    study = arguments.study or config.study.name
    record = trial_dir(arguments.state_dir, study, arguments.trial) / "trial.json"
    if not record.exists():
        raise ConfigurationError(f"study {study!r} has no trial {arguments.trial}", hint="see cappuccinoctl trials")
    artifact = json.loads(record.read_bytes()).get("artifact")
    if artifact is None:
        raise ConfigurationError(f"trial {arguments.trial} of study {study!r} left no artifact")
    print(arguments.state_dir / "artifacts" / artifact)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trainer", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, text in (("work", work), ("judge", judge), ("trials", trials), ("export", export)):
        verb = verbs.add_parser(name, help=text.__doc__)
        verb.add_argument("--config", type=Path, required=True)
        verb.add_argument("--state-dir", type=Path, required=True)
        verb.add_argument("--name", default=f"foreground-{name}")
        verb.add_argument("--json", action="store_true")
    verbs.choices["trials"].add_argument("--top", type=int, default=20)
    verbs.choices["export"].add_argument("trial", type=int)
    verbs.choices["export"].add_argument("--study", default="")
    return parser


if __name__ == "__main__":
    sys.exit(main())
