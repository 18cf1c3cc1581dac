"""Which log records a person is told of, and in which words: pure. Event names are API (docs/events.md)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from daemon.child.room import TRIAL_DIRECTORIES

Level = Literal["info", "warn", "fail"]
RANK: dict[Level, int] = {"info": 0, "warn": 1, "fail": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One thing worth a person's attention."""

    level: Level
    title: str
    body: str = ""


_Record = Mapping[str, Any]


def message_of(record: _Record) -> Message | None:
    """The message for a log record; None for what nobody needs to be woken for."""
    say = _SAY.get(str(record.get("event", "")))
    return None if say is None else say(record)


def _fatal(r: _Record) -> Message:
    return Message(
        level="fail", title=f"{r['name']} was given up ({r.get('reason', '')})",
        body=f"cappuccinoctl logs {r['name']}; mend it; cappuccinoctl retry {r['name']}",
    )  # fmt: skip


def _hung(r: _Record) -> Message:
    return Message(level="warn", title=f"{r['name']} hung: no progress for {r.get('silent_s')} s; it is started again")


def _unkillable(r: _Record) -> Message:
    return Message(level="fail", title=f"{r['name']} does not die of SIGKILL", body="look at the kernel log; reboot")


def _halted(r: _Record) -> Message:
    return Message(
        level="fail", title=f"the paper account is halted: {r.get('reason', '')}",
        body="cappuccinoctl verify; when you know why: cappuccinoctl rearm",
    )  # fmt: skip


def _trader_full(_: _Record) -> Message:
    return Message(level="fail", title="the disk is full: the trader cannot journal and sends no order")


def _losing(_: _Record) -> Message:
    return Message(
        level="warn", title="the paper account loses against 1/N beyond chance",
        body="cappuccinoctl report; whether to go on is yours to say",
    )  # fmt: skip


def _disk(r: _Record) -> Message:
    free_gb = float(r.get("free_bytes", 0)) / 1e9
    if r.get("space") == "floor":
        held = ": no new trials" if r.get("disk") in TRIAL_DIRECTORIES else ""
        return Message(
            level="fail", title=f"disk below its floor ({free_gb:.1f} GB left){held}", body=str(r.get("disk"))
        )
    if r.get("space") == "warn":
        return Message(level="warn", title=f"disk is getting full: {free_gb:.1f} GB left", body=str(r.get("disk")))
    return Message(level="info", title=f"disk has room again: {free_gb:.1f} GB free", body=str(r.get("disk")))


def _gpu(r: _Record) -> Message | None:
    if not r.get("paused"):
        return None
    return Message(level="warn", title=f"GPU {r.get('card')} admits no trial: {r.get('why', '')}")


def _judged(r: _Record) -> Message:
    title = "a champion passed every gate" if r.get("champion") else "judged: no new champion"
    return Message(level="info", title=title, body=str(r.get("reason", "")))


def _recalled(_: _Record) -> Message:
    return Message(level="warn", title="the supervisor had crashed and is back", body="cappuccinoctl status")


def _backup_failed(r: _Record) -> Message:
    return Message(level="warn", title="a backup failed", body=str(r.get("reason", "")))


_SAY: dict[str, Callable[[_Record], Message | None]] = {
    "child.fatal": _fatal, "child.hung": _hung, "child.unkillable": _unkillable, "daemon.recalled": _recalled,
    "daemon.started": lambda _: Message(level="info", title="the service started"),
    "daemon.stopping": lambda _: Message(level="info", title="the service is stopping, as asked"),
    "janitor.backup_failed": _backup_failed, "janitor.disk": _disk, "janitor.gpu": _gpu, "judge.ended": _judged,
    "trader.disk_full": _trader_full, "trader.halted": _halted, "trader.losing": _losing,
}  # fmt: skip
TOLD = frozenset(_SAY)
