"""What the supervisor shows of itself: the status record for the socket, and status.json for when it is down."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from daemon.child.clock import Clock
from daemon.child.config import Config
from daemon.lifecycle import Child, Fleet, may_start
from daemon.status.reading import StatusReader
from features.files import publish

EVERY_S = 5.0  # well below the age at which readers call status.json stale
SOON_S = 0.5  # after something changed


class Picture:
    """Knows each child's last beat; draws the fleet."""

    def __init__(self, state_dir: Path, config: Config, clock: Clock) -> None:
        self._state_dir, self._clock = state_dir, clock
        self._began_s = clock.monotonic_s()
        self._beats: dict[str, Mapping[str, Any]] = {}
        self._published_s, self._shown = -EVERY_S, tuple[object, ...]()
        self.configure(config)

    def configure(self, config: Config) -> None:
        self._reader = StatusReader(self._state_dir, json.loads(config.to_json()))

    def heard(self, name: str, beat: Mapping[str, Any]) -> None:
        self._beats[name] = beat

    def forget(self, name: str) -> None:
        """A new process of this name has said nothing yet."""
        self._beats.pop(name, None)

    def record(self, fleet: Fleet, *, state: str, now_s: float) -> dict[str, Any]:
        return self._reader.gather(
            [self._child(fleet, c, now_s) for c in fleet.children], state=state, pid=os.getpid(),
            up_s=round(now_s - self._began_s, 1), written_utc=self._clock.now_utc().isoformat(), finished=fleet.is_finished,
        )  # fmt: skip

    def publish_if_due(self, fleet: Fleet, *, state: str, now_s: float) -> None:
        """Every few seconds, and soon after a change."""
        shown: tuple[object, ...] = (state, *((c.spec.name, c.state, c.pid) for c in fleet.children))
        if now_s >= self._published_s + (SOON_S if shown != self._shown else EVERY_S):
            self._shown = shown
            self.publish(fleet, state=state, now_s=now_s)

    def publish(self, fleet: Fleet, *, state: str, now_s: float) -> None:
        self._published_s = now_s
        with contextlib.suppress(OSError):  # a full disk: the socket still answers, and `status` calls the file stale
            publish(self._state_dir / "status.json", json.dumps(self.record(fleet, state=state, now_s=now_s)).encode())

    def _child(self, fleet: Fleet, c: Child, now_s: float) -> dict[str, Any]:
        next_start_s = round(max(0.0, c.due_s - now_s), 1) if may_start(fleet, c) else None
        beat = self._beats.get(c.spec.name, {})
        return {
            "name": c.spec.name, "kind": c.spec.kind, "state": c.state.value, "pid": c.pid, "ready": c.ready,
            "for_s": round(now_s - c.since_s, 1), "failures": c.failures, "restarts": c.recent_restarts(now_s),
            "flapping": c.is_flapping(now_s), "next_start_s": next_start_s,
            "silent_s": round(now_s - c.progress_s, 1), "last_exit": c.last_exit, "reason": c.reason,
            "rss_bytes": c.rss_bytes if c.pid is not None else 0, "note": beat.get("note", ""), "facts": beat.get("facts", {}),
        }  # fmt: skip
