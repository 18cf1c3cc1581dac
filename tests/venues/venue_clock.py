"""Our clock and a venue's as one."""

from datetime import UTC, datetime
from typing import Any

from daemon.child.clock import ManualClock


class VenueClock(ManualClock):
    """Sleeping runs at a hundredfold, so that hours pass within a test; short naps at their own pace."""

    def __init__(self, venue: Any) -> None:
        super().__init__()
        self._venue = venue

    def now_utc(self) -> datetime:
        return datetime.fromtimestamp(self._venue.now_s, tz=UTC)

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self._venue.now_s += max(0.0, seconds) * (100 if seconds >= 1.0 else 1)
