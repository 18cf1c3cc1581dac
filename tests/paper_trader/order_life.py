"""One life of the order flow as a process: `python order_life.py VENUE URL NOW_S STATE_DIR POINT PASSAGE [N_DECISIONS]`.

It dies by SIGKILL at the given passage of the point ("none": it does not), and says on standard output what it has made
durable: a line per step, "durable: decisions fates marks", as they stand in the journal.
"""

import os
import signal
import sqlite3
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from order_world import PLAN, VENUES, World

DURABLE = "durable: "


@dataclass
class RemoteVenue:
    """A venue in another process; its clock follows ours."""

    api_url: str
    quote: str
    _now_s: float

    @property
    def now_s(self) -> float:
        return self._now_s

    @now_s.setter
    def now_s(self, value: float) -> None:
        self._now_s = value
        urllib.request.urlopen(f"{self.api_url}/-/clock?now_s={value}").close()


def main(venue: str, url: str, now_s: str, state_dir: str, point: str, passage: str, n: str = "3") -> None:
    remote = RemoteVenue(api_url=url, quote="USD" if venue == "alpaca" else "USDT", _now_s=float(now_s))
    left = [int(passage)]
    journal = Path(state_dir) / "journal.db"

    def step(name: str) -> None:
        if name == point:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        if name in ("decided", "acknowledged", "bar settled"):
            os.write(1, f"{DURABLE}{durable(journal)}\n".encode())

    World(
        venue=remote, state_dir=Path(state_dir), open_broker=VENUES[venue][1], plan=plan(int(n)), crash_point=step
    ).live()  # fmt: skip


def plan(n: int) -> tuple[tuple[tuple[str, str], ...], ...]:
    """The usual plan, and then small trades to and fro."""
    more = tuple((("LINK", "2"), ("BTC", "0.001")) if k % 2 == 0 else (("LINK", "-2"),) for k in range(n - len(PLAN)))
    return PLAN + more


def durable(journal: Path) -> str:
    db = sqlite3.connect(f"file:{journal}?mode=ro", uri=True)
    try:
        counts = [
            db.execute(text).fetchone()[0]
            for text in (
                "SELECT COUNT(*) FROM decisions", "SELECT COUNT(*) FROM intents WHERE state <> 'INTENT'",
                "SELECT COUNT(*) FROM marks",
            )
        ]  # fmt: skip
    finally:
        db.close()
    return " ".join(map(str, counts))


if __name__ == "__main__":
    main(*sys.argv[1:])
