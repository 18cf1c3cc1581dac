"""`python -m daemon.advisor`: the child that analyses the trials; `--once` for a person, `--last` for one in a hurry."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobEvent
from apscheduler.schedulers.background import BackgroundScheduler

from daemon.advisor.shell import Advisor, ask_trainer, newest
from daemon.child.clock import SystemClock
from daemon.child.config import load_config
from daemon.child.logs import configure_logging, get_logger
from daemon.child.progress import Progress
from daemon.child.stopping import StopRequest
from daemon.child.usage import Parser, called, child_options
from features.errors import CappuccinoError
from features.files import read_json


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        config = load_config(arguments.config)
        configure_logging(
            component="advisor", child=arguments.name, path=arguments.state_dir / "logs" / f"{arguments.name}.jsonl"
        )
        if arguments.last:
            return _show(newest(arguments.state_dir), as_json=arguments.json)
        stop = StopRequest()
        advisor = Advisor(
            config=config, state_dir=arguments.state_dir, clock=SystemClock(), log=get_logger(),
            evidence=lambda: ask_trainer(arguments.config, arguments.state_dir),
            workers=lambda: load_config(arguments.config).study.workers, should_stop=lambda: stop.requested,
        )  # fmt: skip
        if arguments.once:
            claims = [] if arguments.claims is None else read_json(arguments.claims)
            return _show(advisor.advise(claims).path, as_json=arguments.json)
        return _serve(advisor, stop, poll_s=config.advisor.poll_s, daily_at=config.advisor.daily_at)
    except CappuccinoError as error:
        print(f"{called('advisor')}: {error}", file=sys.stderr)
        return error.exit_code


def _show(report: Path | None, *, as_json: bool) -> int:
    """Print the report's Markdown, or its record; where its page is goes to stderr."""
    if report is None:
        raise CappuccinoError("there is no report yet", hint="cappuccinoctl advise writes one")
    print(report.with_suffix(".json" if as_json else ".md").read_text())
    print(f"the same with figures: {report.with_suffix('.html')}", file=sys.stderr)
    return 0


def _serve(advisor: Advisor, stop: StopRequest, *, poll_s: float, daily_at: str) -> int:
    """Look every `poll_s`, and once a day at `daily_at` (hh:mm UTC) whatever the count.

    A job that raises ends the child, so that the supervisor and its reader see it.
    """
    progress = Progress.from_environment()
    looks, broken = 0, []

    def look(write: Callable[[], bool] = advisor.advise_if_due) -> None:
        nonlocal looks
        wrote = write()
        looks += 1
        progress.beat(done=looks, unit="looks", note="report written" if wrote else "nothing new")

    def listen(event: JobEvent) -> None:
        get_logger().warning("advisor.schedule", code=event.code)
        if event.code == EVENT_JOB_ERROR:
            broken.append(str(getattr(event, "exception", "")))

    scheduler = BackgroundScheduler(timezone="UTC", executors={"default": {"type": "threadpool", "max_workers": 1}})
    # the defaults drop a job that is over a second late and run missed ones in a burst
    scheduler.add_job(look, "interval", seconds=poll_s, misfire_grace_time=None, coalesce=True, max_instances=1)
    if daily_at:
        hour, minute = daily_at.split(":")
        scheduler.add_job(
            look, "cron", args=[advisor.advise_if_new], hour=int(hour), minute=int(minute), misfire_grace_time=None,
            coalesce=True, max_instances=1,
        )  # fmt: skip
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
    parser = Parser(prog=called("advisor"), description=__doc__)
    child_options(parser, "advisor")
    parser.add_argument("--once", action="store_true", help="analyse now and print the report")
    parser.add_argument("--last", action="store_true", help="print the newest report; analyse nothing")
    parser.add_argument("--claims", type=Path, help="JSON list of another report's statements, to be checked (--once)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
