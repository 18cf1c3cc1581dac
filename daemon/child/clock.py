"""The only place that asks what time it is."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(2020, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """Wall time for labels, monotonic time for every decision about durations."""

    def now_utc(self) -> datetime: ...

    def monotonic_s(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clocks."""

    def now_utc(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class ManualClock:
    """A clock for tests: it moves when told, or when somebody sleeps."""

    def __init__(self, start: datetime = EPOCH) -> None:
        self._start, self._elapsed_s = start, 0.0

    def now_utc(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed_s)

    def monotonic_s(self) -> float:
        return self._elapsed_s

    def sleep(self, seconds: float) -> None:
        self._elapsed_s += max(0.0, seconds)
