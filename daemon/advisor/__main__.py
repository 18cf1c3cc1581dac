"""`python -m daemon.advisor`: the child that analyses the trials; `--once` for a person."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobEvent
from apscheduler.schedulers.background import BackgroundScheduler

from daemon.advisor.shell import Advisor
from daemon.child.clock import SystemClock
from daemon.child.config import load_config
from daemon.child.logs import configure_logging, get_logger
from daemon.child.progress import Progress
from daemon.child.stopping import StopRequest
from features.errors import CappuccinoError


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        config = load_config(arguments.config)
        configure_logging(
            component="advisor", child=arguments.name, path=arguments.state_dir / "logs" / f"{arguments.name}.jsonl"
        )
        advisor = Advisor(config=config, state_dir=arguments.state_dir, clock=SystemClock(), log=get_logger())
        if arguments.once:
            analysis, path = advisor.advise()
            print(json.dumps(asdict(analysis)) if arguments.json else path.read_text())
            return 0
        return _serve(advisor, poll_s=config.advisor.poll_s)
    except CappuccinoError as error:
        print(f"advisor: {error}", file=sys.stderr)
        return error.exit_code


def _serve(advisor: Advisor, *, poll_s: float) -> int:
    """Look every `poll_s`; a job that raises ends the child, so that the supervisor and its reader see it."""
    stop, progress = StopRequest(), Progress.from_environment()
    looks, broken = 0, []

    def look() -> None:
        nonlocal looks
        wrote = advisor.advise_if_due()
        looks += 1
        progress.beat(done=looks, unit="looks", note="report written" if wrote else "nothing new")

    def listen(event: JobEvent) -> None:
        get_logger().warning("advisor.schedule", code=event.code)
        if event.code == EVENT_JOB_ERROR:
            broken.append(str(getattr(event, "exception", "")))

    scheduler = BackgroundScheduler(timezone="UTC", executors={"default": {"type": "threadpool", "max_workers": 1}})
    # the defaults drop a job that is over a second late and run missed ones in a burst
    scheduler.add_job(look, "interval", seconds=poll_s, misfire_grace_time=None, coalesce=True, max_instances=1)
    scheduler.add_listener(listen, EVENT_JOB_ERROR | EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES)
    look()
    scheduler.start()
    progress.ready()
    while not stop.requested and not broken:
        stop.wait(0.5)
    scheduler.shutdown(wait=True)
    if broken:
        raise CappuccinoError(f"the analysis failed: {broken[0]}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="advisor", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--name", default="advisor")
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
