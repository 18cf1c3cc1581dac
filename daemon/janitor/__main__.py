"""`python -m daemon.janitor`: the child that keeps the disk usable; `--once` and `--dry-run` for a person."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from daemon.child.clock import SystemClock
from daemon.child.config import load_config
from daemon.child.logs import configure_logging, get_logger
from daemon.child.progress import Progress
from daemon.child.stopping import StopRequest
from daemon.janitor.plan import Plan
from daemon.janitor.shell import Janitor
from features.errors import CappuccinoError


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        config = load_config(arguments.config)
        configure_logging(
            component="janitor", child=arguments.name, path=arguments.state_dir / "logs" / f"{arguments.name}.jsonl"
        )
        clock = SystemClock()
        janitor = Janitor(config=config, state_dir=arguments.state_dir, clock=clock, log=get_logger())
        if arguments.once or arguments.dry_run:
            result = janitor.planned() if arguments.dry_run else janitor.clean()
            print(json.dumps(asdict(result)) if arguments.json else _text(result, dry_run=arguments.dry_run))
            return 0
        _serve(janitor, every_s=config.janitor.every_s)
    except CappuccinoError as error:
        print(f"janitor: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _serve(janitor: Janitor, *, every_s: float) -> None:
    stop, progress, passes = StopRequest(), Progress.from_environment(), 0
    progress.ready()
    while not stop.requested:
        result = janitor.clean()
        passes += 1
        progress.beat(done=passes, unit="passes", note=f"disk {result.space}, {len(result.delete)} artifacts deleted")
        stop.wait(every_s)


def _text(result: Plan, *, dry_run: bool) -> str:
    verb = "would delete" if dry_run else "deleted"
    lines = [f"disk {result.space}: {verb} {len(result.delete)} artifacts, {result.freed_bytes / 1e6:.1f} MB"]
    lines += [f"  {d.item.name}  {d.item.size_bytes} bytes, {d.item.age_s / 3600:.1f} h old" for d in result.delete]
    lines += [f"  {'would rotate' if dry_run else 'rotated'} {i.name}, {i.size_bytes} bytes" for i in result.rotate]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="janitor", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--name", default="janitor")
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
