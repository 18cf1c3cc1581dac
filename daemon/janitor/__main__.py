"""`python -m daemon.janitor`: the child that keeps the disk usable; `--once` and `--dry-run` for a person."""

import argparse
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path

from daemon.child.clock import Clock, SystemClock
from daemon.child.config import Config, load_config
from daemon.child.logs import configure_logging, get_logger
from daemon.child.progress import Progress
from daemon.child.stopping import StopRequest
from daemon.child.usage import Parser, called, child_options
from daemon.janitor.cards import Cards
from daemon.janitor.plan import Plan, Space
from daemon.janitor.schedule import Nightly
from daemon.janitor.shell import Janitor
from features.errors import CappuccinoError

BELOW_FLOOR_EVERY_S = 60.0  # a pass while there is too little room: something may have become deletable


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        config = load_config(arguments.config)
        configure_logging(
            component="janitor", child=arguments.name, path=arguments.state_dir / "logs" / f"{arguments.name}.jsonl"
        )
        if arguments.once or arguments.dry_run:
            janitor = Janitor(
                config=config, state_dir=arguments.state_dir, clock=SystemClock(), log=get_logger(), beat=lambda: None
            )
            result = janitor.planned() if arguments.dry_run else janitor.clean()
            print(json.dumps(result.to_dict()) if arguments.json else text(result, dry_run=arguments.dry_run))
            return 0
        _serve(config, arguments.state_dir, SystemClock())
    except CappuccinoError as error:
        print(f"{called('janitor')}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _serve(config: Config, state_dir: Path, clock: Clock) -> None:
    stop, progress, log = StopRequest(), Progress.from_environment(), get_logger()
    beat = _beats(progress)
    janitor = Janitor(config=config, state_dir=state_dir, clock=clock, log=log, beat=lambda: beat("deleting"))
    cards = Cards(config=config, state_dir=state_dir, clock=clock, log=log)
    nightly = Nightly(every_s=config.janitor.backup_every_s, state_dir=state_dir, clock=clock, log=log)
    progress.ready()
    pass_due_s, space = clock.monotonic_s(), Space.OK
    while not stop.requested:
        if janitor.changed() or clock.monotonic_s() >= pass_due_s:
            space = janitor.clean().space
            wait_s = config.janitor.every_s if space is not Space.FLOOR else BELOW_FLOOR_EVERY_S
            pass_due_s = clock.monotonic_s() + wait_s
        beat(f"disk {space}")
        if space is not Space.FLOOR:
            nightly.back_up_if_due()
        cards.look()
        stop.wait(config.janitor.poll_s)


def _beats(progress: Progress) -> Callable[[str], None]:
    count = itertools.count(1)
    return lambda note: progress.beat(done=next(count), unit="looks", note=note)


def text(result: Plan, *, dry_run: bool) -> str:
    """What goes and why, what stays and why, disk by disk."""
    lines = [f"disk {result.space}" + (": no new trials" if result.hold_trials else "")]
    for v in result.disks:
        would = "would be " if dry_run else ""
        reserve = {(True, False): f", reserve {would}given up", (False, True): f", reserve {would}made anew"}.get(
            (v.free_reserve, v.make_reserve), ""
        )
        lines.append(f"  {v.disk.name:<10}{v.space}, {v.disk.free_bytes / 1e9:.2f} GB free{reserve}")
    verb = "would delete" if dry_run else "deleted"
    lines.append(f"{verb} {len(result.delete)} things, {result.freed_bytes / 1e6:.1f} MB")
    lines += [
        f"  {d.item.name}  {d.item.size_bytes} bytes, {d.item.age_s / 3600:.1f} h old: {d.reason}"
        for d in result.delete
    ]
    lines += [f"  {'would rotate' if dry_run else 'rotated'} {i.name}, {i.size_bytes} bytes" for i in result.rotate]
    if dry_run:
        lines.append(f"kept because something needs them: {len(result.kept)}")
        lines += [f"  {name}: {why}" for name, why in sorted(result.kept.items())]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog=called("janitor"), description=__doc__)
    child_options(parser, "janitor")
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
