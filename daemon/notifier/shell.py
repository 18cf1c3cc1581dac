"""The notifier's loop: read what is new in the logs, send what is due, ping while the service is alive."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from daemon.child.clock import Clock
from daemon.child.service_config import NotifyConfig
from daemon.notifier import outbox as box
from daemon.notifier.follow import LogFollower
from daemon.notifier.messages import RANK, Message, message_of
from daemon.notifier.outbox import Rate
from daemon.notifier.senders import Ping, Senders
from daemon.status.record import STALE_S

NEWS_S = 3600.0  # who reads a log from its beginning tells what this run of the service has seen, nothing of yesterday


class Notifier:
    """One turn at a time; a service that does not answer holds up this program and nobody else."""

    def __init__(
        self, *, config: NotifyConfig, state_dir: Path, clock: Clock, log: FilteringBoundLogger, senders: Senders,
        ping: Ping | None, host: str,
    ) -> None:  # fmt: skip
        self._config, self._state_dir, self._clock, self._log = config, state_dir, clock, log
        self._senders, self._ping, self._host = senders, ping, host
        self._logs = LogFollower(state_dir / "logs", state_dir / "run" / "notified.json")
        self._since_utc = self._an_hour_ago() if self._logs.is_first else datetime.min.replace(tzinfo=UTC)
        self._outbox = box.opened(Rate(burst=config.burst, per_hour=config.per_hour), now_s=clock.monotonic_s())
        self._ping_due_s = clock.monotonic_s()
        self._ping_failed = ""

    def turn(self) -> None:
        self._read()
        self._send()
        if self._ping is not None and self._clock.monotonic_s() >= self._ping_due_s:
            self._ping_due_s = self._clock.monotonic_s() + self._config.ping_every_s
            if self._is_alive():
                self._pinged(self._ping.send())

    def _read(self) -> None:
        read = 0
        for record in self._logs.new():
            read += 1
            if self._logs.lost_place:
                self._logs.lost_place, self._since_utc = False, self._an_hour_ago()
            message = message_of(record)
            if message is not None and self._is_wanted(message, record):
                self._outbox = box.offered(self._outbox, message)
        if read or self._logs.is_first:
            self._logs.is_first = False
            self._logs.remember()

    def _an_hour_ago(self) -> datetime:
        return self._clock.now_utc() - timedelta(seconds=NEWS_S)

    def _is_wanted(self, message: Message, record: Mapping[str, Any]) -> bool:
        if not len(self._senders) or RANK[message.level] < RANK[self._config.at_least]:
            return False
        return "ts" not in record or datetime.fromisoformat(record["ts"]) >= self._since_utc

    def _send(self) -> None:
        """One message a turn, so that the progress of this loop shows while a service is slow."""
        self._outbox, message = box.due(self._outbox, now_s=self._clock.monotonic_s())
        if message is None:
            return
        refused = self._senders.send(message, host=self._host)
        if len(refused) == len(self._senders):
            self._outbox = box.failed(self._outbox, now_s=self._clock.monotonic_s())
        else:  # whoever could be told was told; the same again would be noise to them
            self._outbox = box.sent(self._outbox, message)
        if refused:
            self._log.warning("notify.failed", services=", ".join(refused), waiting=len(self._outbox.queue))

    def _pinged(self, failure: str) -> None:
        if failure and failure != self._ping_failed:
            self._log.warning("notify.ping_failed", reason=failure)
        self._ping_failed = failure

    def _is_alive(self) -> bool:
        """The supervisor publishes its status every few seconds: an old one is no sign of life."""
        try:
            written = json.loads((self._state_dir / "status.json").read_bytes())["daemon"]["written_utc"]
            age_s = (self._clock.now_utc() - datetime.fromisoformat(written)).total_seconds()
        except (OSError, ValueError, KeyError):
            return False
        return abs(age_s) <= STALE_S
