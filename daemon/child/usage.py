"""The command lines of all programs: the options they share, and how wrong usage is answered."""

import argparse
import os
from pathlib import Path
from typing import NoReturn

from daemon.child.exits import EXIT_USAGE

CALLED = "CAPPUCCINO_CALLED"  # what a person typed to start the program; its messages speak of that
COMMON = "common options: --config PATH (repeat to overlay), --set section.key=value, --state-dir PATH, --json"


class Parser(argparse.ArgumentParser):
    """Wrong usage has its own exit code: argparse's 2 means "degraded" here."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message} ({self.prog} --help shows what there is)\n")


def at_least_one(text: str) -> int:
    """For `type=`: a count of things to show."""
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {count}")
    return count


def directory(text: str) -> Path:
    """For `type=`: one that is there or can be made."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is no directory")
    return path


def file_to_write(text: str) -> Path:
    """For `type=`: one in a folder that is there; a mistyped path is said instead of made."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder: name a file in it")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def called(program: str) -> str:
    """`cappuccinoctl VERB` if that started this program, else `program`."""
    return os.environ.get(CALLED, program)


def child_options(parser: argparse.ArgumentParser, name: str) -> None:
    """What every child is started with. For `cappuccinoctl` these have other forms, so its help leaves them out."""
    by_person = CALLED in os.environ
    parser.epilog = COMMON if by_person else None
    for option in ("--config", "--state-dir"):
        parser.add_argument(option, type=Path, required=True, help=argparse.SUPPRESS if by_person else None)
    parser.add_argument("--name", default=name, help=argparse.SUPPRESS if by_person else "of the log and the lock")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS if by_person else None)
