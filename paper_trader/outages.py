"""What the trader sits out, alive: a market or a broker that does not answer, a disk that is full."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from daemon.child.clock import Clock
from features.files import disk_full
from features.sources.errors import MarketUnavailable
from paper_trader.brokers.base import BrokerUnavailable

OUTAGES = (MarketUnavailable, BrokerUnavailable, OSError, sqlite3.Error)
RETRY_S = 15.0
ROOM_BYTES = 2_097_152  # twice the journal's capped write-ahead log: the janitor's reserve file gives more than that
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
POLL_S = 1.0


class Outages:
    """How long each may have to be waited for."""

    def __init__(
        self, *, state_dir: Path, clock: Clock, log: FilteringBoundLogger, should_stop: Callable[[], bool]
    ) -> None:  # fmt: skip
        self._clock, self._log, self._should_stop = clock, log, should_stop
        self._places = (state_dir / "paper", state_dir / "market")
        self._pause_s = FIRST_PAUSE_S

    def is_outage(self, error: Exception) -> bool:
        return isinstance(error, (MarketUnavailable, BrokerUnavailable)) or disk_full(error)

    def over(self) -> None:
        """A bar was settled: what there was is over."""
        self._pause_s = FIRST_PAUSE_S

    def sit_out(self, error: Exception, tell: Callable[[str], None]) -> bool:
        """Until it may be over; False when a stop is asked for first. What is no outage is raised again.

        tell: shows that the trader is alive and what it waits for.
        """
        match error:
            case MarketUnavailable(retry_after_s=wait_s):
                self._log.warning("trader.market_unavailable", error=str(error), retry_after_s=wait_s)
                return self._wait(wait_s or RETRY_S, lambda: tell("the market does not answer"))
            case BrokerUnavailable(retry_after_s=wait_s):
                self._log.warning("trader.broker_unavailable", error=str(error), retry_after_s=wait_s)
                return self._wait(wait_s or RETRY_S, lambda: tell("the broker does not answer"))
            case _ if disk_full(error):
                self._log.warning("trader.disk_full", reason=str(error))
                # longer each time: a quota is full where the disk is not, and every attempt asks the venue
                pause_s, self._pause_s = self._pause_s, min(2.0 * self._pause_s, LONGEST_PAUSE_S)
                return self._wait(pause_s, lambda: tell("no orders: the disk is full"), also_while=self._is_full)
            case _:
                raise error

    def _wait(
        self, seconds: float, tell: Callable[[], None], also_while: Callable[[], bool] = lambda: False
    ) -> bool:  # fmt: skip
        until_s = self._clock.monotonic_s() + seconds
        while not self._should_stop():
            left_s = until_s - self._clock.monotonic_s()
            if left_s <= 0.0 and not also_while():
                return True
            tell()
            self._clock.sleep(min(POLL_S, left_s) if left_s > 0.0 else POLL_S)
        return False

    def _is_full(self) -> bool:
        return any(p.exists() and shutil.disk_usage(p).free < ROOM_BYTES for p in self._places)
