"""Looks at one configuration and its state directory: disk, permissions, secrets, the daemon, the venue."""

import os
import stat
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from daemon import control
from daemon.child.clock import Clock
from daemon.child.config import Config
from daemon.child.credentials import ALPACA, BINANCE, credential
from daemon.child.market import Waiting, open_market
from daemon.doctor import judge
from daemon.doctor.finding import Finding, ok
from daemon.janitor.backup import backup_folders, load
from daemon.notifier.senders import PING, URLS
from daemon.status.reading import file_systems
from features.errors import CappuccinoError, ConfigurationError, DataError
from features.files import Lock
from features.sources.base import BarSource
from features.sources.errors import MarketUnavailable

PATIENCE_S = 10.0  # with the venue: a person waits for this answer
_SOURCE_NEEDS = {"alpaca": ALPACA}
_BROKER_NEEDS = {"alpaca": ALPACA, "ccxt": BINANCE}


def service(config: Config, state_dir: Path, clock: Clock) -> Iterator[Finding]:
    yield from state(state_dir)
    yield from disks(config, state_dir)
    yield from secrets(config)
    yield from backups(config, state_dir, clock)
    yield daemon(state_dir)


def state(state_dir: Path) -> Iterator[Finding]:
    if not state_dir.exists():
        yield ok("state", f"{state_dir} does not exist yet; the first start makes it")
        return
    found = state_dir.stat()
    yield judge.private("state", str(state_dir), mode=stat.S_IMODE(found.st_mode), owner=found.st_uid, us=os.geteuid())
    if not os.access(state_dir, os.W_OK | os.X_OK):
        yield Finding(
            check="state",
            level="fail",
            text=f"{state_dir} cannot be written to",
            remedy="run as its owner, or chown it",
        )


def disks(config: Config, state_dir: Path) -> Iterator[Finding]:
    """Every file system in use; of a state directory that is not there yet, the one it will be on."""
    there = state_dir
    while not there.exists():
        there = there.parent
    for path in file_systems(there):
        usage = os.statvfs(path)
        yield judge.disk(
            str(path), free_bytes=usage.f_bavail * usage.f_frsize, total_bytes=usage.f_blocks * usage.f_frsize,
            free_inodes=usage.f_favail if usage.f_files else -1, warn_bytes=config.janitor.warn_free_bytes,
            floor_bytes=config.janitor.floor_free_bytes,
        )  # fmt: skip


def secrets(config: Config) -> Iterator[Finding]:
    """Whether the credentials that this configuration needs are there, and whether nobody else can read any."""
    directory = Path(config.run.credentials_dir).expanduser()
    needed: list[tuple[str, tuple[str, ...]]] = []
    for name in _SOURCE_NEEDS.get(config.market.source, ()):
        needed.append((f"market.source = {config.market.source}", (name,)))
    for name in _BROKER_NEEDS.get(config.paper.broker, ()):
        needed.append((f"paper.broker = {config.paper.broker}", (name,)))
    if config.notify.enabled:
        needed.append(("notify.enabled", (URLS, PING)))
    present = set()
    for name in {n for _, names in needed for n in names}:
        try:
            if credential(name, directory) is not None:
                present.add(name)
        except ConfigurationError as error:
            yield Finding(check="secrets", level="fail", text=error.args[0], remedy=error.hint)
            present.add(name)
    yield from judge.credentials(needed, frozenset(present), str(directory))
    for path in sorted(p for p in directory.glob("*") if p.exists()):  # a link may lead nowhere
        found = path.stat()
        finding = judge.private(
            "secrets", str(path), mode=stat.S_IMODE(found.st_mode), owner=found.st_uid, us=os.geteuid()
        )
        if finding.level != "ok":
            yield finding


def backups(config: Config, state_dir: Path, clock: Clock) -> Iterator[Finding]:
    """Whether the janitor makes them; each was tested when it was made, and `backup --list` tests all of them again."""
    folders = backup_folders(state_dir)
    if not folders:
        yield ok("backups", "none yet")
        return
    try:
        newest = load(folders[-1])
    except DataError as error:
        yield Finding(check="backups", level="fail", text=error.args[0], remedy=error.hint)
        return
    age_s = (clock.now_utc() - datetime.fromisoformat(newest.made_utc)).total_seconds()
    yield judge.backup(newest.name, age_s=age_s, every_s=config.janitor.backup_every_s)


def daemon(state_dir: Path) -> Finding:
    runs = Lock(state_dir / "run" / "supervisor.lock").is_held()
    answers = False
    if runs:
        try:
            control.ask(state_dir, "status")
            answers = True
        except CappuccinoError:
            answers = False
    return judge.locks(
        supervisor_runs=runs, socket_exists=control.socket_path(state_dir).exists(), answers=answers
    )  # fmt: skip


def venue(
    config: Config, clock: Clock, *, open_: Callable[[Config, Waiting], BarSource] = open_market
) -> Iterator[Finding]:
    """Ask the configured source once, through the client that the service uses, and give up soon."""
    until_s = clock.monotonic_s() + PATIENCE_S
    try:
        source = open_(config, Waiting(clock=clock, should_stop=lambda: clock.monotonic_s() >= until_s))
        rules = source.venue_rules()
        # the rules of these are the same whether there are candles or not
        if config.market.source in ("recorded", "simulated"):
            last_s = source.last_close_s()
            source.bars(after_s=last_s - config.market.timeframe_s, until_s=last_s)
        offset_s = source.clock_offset_s()
    except MarketUnavailable as error:
        yield Finding(
            check="venue", level="fail", text=f"{config.market.source} does not answer: {error.args[0]}",
            remedy=error.hint or "check the network and the exchange's own status page",
        )  # fmt: skip
        return
    except CappuccinoError as error:
        remedy = error.hint or "check [market] in the configuration"
        yield Finding(check="venue", level="fail", text=f"{config.market.source}: {error.args[0]}", remedy=remedy)
        return
    yield ok("venue", f"{source.name} answers; rules of {len(rules.rules)} tickers")
    if offset_s is not None:
        yield judge.clock_offset(offset_s, grace_s=config.market.grace_s)
