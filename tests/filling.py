"""A process that writes to a candle store: `python filling.py ROOT FILE [STEPS]`.

It copies the candles of a recorded file into the store, a page at a time. With STEPS it is as many children: each works
on a store of its own, ROOT/0, ROOT/1, …, and dies by SIGKILL at the step that reaches the disk of that number.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from features.sources.copied import CopiedSource
from features.sources.recorded import RecordedSource
from features.store.fill import Filled, Filler
from features.store.store import CandleStore

TICKERS = ("BTC", "ETH")
HOUR = 3600
SEEN_S = 1_800_000_000


def fill_from(
    root: Path, recorded: Path, *, crash_point: Callable[[str], None] = lambda _: None, again: bool = False
) -> Filled:
    """Everything in the file into the store; again: also what the store has, so that differences become revisions."""
    source = CopiedSource(RecordedSource(path=recorded, tickers=TICKERS, timeframe_s=HOUR), quote="USDT")
    filler = Filler(
        CandleStore(root, crash_point=crash_point), source, venue="file", timeframe_s=HOUR,
        clock_now_s=lambda: SEEN_S, pause=lambda: None,
    )  # fmt: skip
    total = Filled()
    span = {"after_s": source.first_close_s() - HOUR, "until_s": source.last_close_s()}
    for ticker in TICKERS:
        if again:
            total += filler.ask_again(ticker, **span)
        total += filler.fill(ticker, **span)
    return total


class DiesAt:
    """SIGKILL at the given step, counted from 0: no handler runs, no file is closed, no draft is removed."""

    def __init__(self, step: int) -> None:
        self.left = step

    def __call__(self, _: str) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


def main(root: Path, recorded: Path, steps: int) -> None:
    """One child for each step, on the store ROOT/step."""
    for step in range(steps):
        child = os.fork()
        if child == 0:
            fill_from(root / str(step), recorded, again=True, crash_point=DiesAt(step))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"step {step}: the child ended with {status}, not by SIGKILL")


if __name__ == "__main__":
    given = [Path(word) for word in sys.argv[1:3]]
    if len(sys.argv) == 3:
        fill_from(*given)
    else:
        main(*given, int(sys.argv[3]))
