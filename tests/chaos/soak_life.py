"""A trader's year in one process, as a program: `soak_life.py STATE_DIR BARS`. Prints a line of JSON every 200 bars.

Every few bars something fails: the market does not answer, or a durable step meets a full disk, upon which the trader
closes its books and opens them anew.
"""

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from desk import artifact, promote, trader

from daemon.child.clock import ManualClock
from daemon.child.config import parse
from features.bars import Bars
from features.sources.errors import MarketUnavailable

EVERY, HOUR_S = 200, 3600.0


def resources() -> dict[str, float]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"rss_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6, "files": len(list(Path("/proc/self/fd").iterdir()))}


def main(state_dir: Path, n_bars: int) -> None:
    config = parse({
        "market": {"source": "simulated", "tickers": ["BTC", "ETH", "LTC", "LINK", "UNI", "AAVE", "AVAX"]},
        "simulation": {"world": "sv", "seed": 5, "bars": 1200 + n_bars},
        "paper": {"clock": "replay", "replay_start_utc": "2021-02-20T00:00:00Z", "replay_bars_per_s": 0.0},
        "risk": {"daily_loss": 0.0, "max_drawdown": 0.99},
    })  # fmt: skip
    promote(state_dir, artifact(config))
    rng, clock = np.random.default_rng(12), ManualClock()
    faults, settled = {"market": 0, "disk": 0}, [0]

    def point(name: str) -> None:
        if name == "bar settled":
            settled[0] += 1
            clock.sleep(HOUR_S)
            if settled[0] % EVERY == 0:
                print(json.dumps({"bars": settled[0], **resources(), **faults}), flush=True)
        if rng.random() < 0.003:  # of a dozen points a bar: about once a day
            faults["disk"] += 1
            raise OSError(errno.ENOSPC, "no space left on device")

    ours = trader(config, state_dir, crash_point=point, clock=clock)
    ours._open_market()
    bars = ours._source.bars

    def faulty(**asked: Any) -> Bars:
        if rng.random() < 0.2:  # every five hours
            faults["market"] += 1
            raise MarketUnavailable("the venue is down", retry_after_s=5.0)
        return bars(**asked)

    ours._source.bars = faulty  # type: ignore[method-assign]
    ours._open_market = lambda: None  # type: ignore[method-assign]
    ours.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
