"""What the supervisor shows of its fleet."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from daemon.child.clock import ManualClock
from daemon.child.config import Config
from daemon.fleet import fleet_of, specs_of
from daemon.lifecycle import Fleet, State
from daemon.picture import Picture


def janitor_of(picture: Picture, fleet: Fleet, now_s: float) -> dict[str, Any]:
    record = picture.record(fleet, state="running", now_s=now_s)
    return next(c for c in record["children"] if c["name"] == "janitor")


def test_restarts_of_last_week_are_not_shown_as_if_they_were_of_today_and_a_dead_process_holds_no_memory(
    tmp_path: Path,
) -> None:
    fleet = fleet_of(Config(), specs_of(Config(), tmp_path))
    picture = Picture(tmp_path, Config(), ManualClock())
    alive = replace(fleet.child("janitor"), state=State.RUNNING, pid=7, rss_bytes=10**8, restarts_s=(10.0, 20.0, 30.0))
    shown = janitor_of(picture, fleet.put(alive), 60.0)
    assert (shown["restarts"], shown["flapping"], shown["rss_bytes"]) == (3, True, 10**8)
    week_s = 7 * 86_400.0
    shown = janitor_of(picture, fleet.put(replace(alive, state=State.STOPPED, pid=None)), week_s)
    assert (shown["restarts"], shown["flapping"], shown["rss_bytes"]) == (0, False, 0)
