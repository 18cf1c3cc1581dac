"""Other accounts on the same bars: what to beat (1/N, Bitcoin, cash) and the last judgement's best candidates.

They fill as the embedded broker fills, cost what the paper account costs, and send nothing. Policies trade here as they
were trained, without [risk]: what the limits cost is the paper account's difference to its own policy.

Their book is a cache, not a record: everything in it follows from the journal's bars and the day on which each of them
began. It is written once a day of bars, and what a crash swallows is walked through again. A book that cannot be read, or
that knows bars which the journal does not (an older one was restored), stops nothing: it begins anew.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.artifact import PolicyArtifact
from features.bars import Bars
from features.costs import Costs
from features.decision import Decider, MarketWindow
from features.errors import CappuccinoError, DataError
from features.files import disk_full, read_json
from features.ledger import Ledger, plan_orders, simulate_fills
from features.pipeline import FeatureRows
from features.spec import FeatureSpec
from features.venue_rules import VenueRules
from paper_trader.account_record import ledger_from, ledger_record
from paper_trader.anchoring import AnchoredRows, Anchors
from paper_trader.database import BookUnusable, open_database, transaction

SCHEMA, DAY_S = 1, 86_400
EQUAL, CASH = "1/N daily", "cash"
_TABLES = """
CREATE TABLE shadows (
    name TEXT PRIMARY KEY, artifact TEXT NOT NULL, since_s INTEGER NOT NULL, settled_s INTEGER NOT NULL,
    account TEXT NOT NULL, orders TEXT NOT NULL, retired INTEGER NOT NULL DEFAULT 0);
CREATE TABLE equity (name TEXT, close_time_s INTEGER, equity REAL, PRIMARY KEY (name, close_time_s)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """One account. artifact: "" of a baseline; orders wait for the next open."""

    name: str
    artifact: str
    since_s: int
    settled_s: int
    account: Ledger
    orders: tuple[tuple[str, Decimal], ...] = ()
    retired: bool = False


@dataclass(slots=True, kw_only=True)
class _Mind:
    """What a policy shadow thinks with."""

    decider: Decider
    window: MarketWindow
    block: NDArray[np.float32] | None = field(default=None)


def baseline_target(name: str, tickers: Sequence[str], *, first: bool, close_time_s: int) -> NDArray[np.float64] | None:
    """(N,) weights wanted at this close, or None to leave the account alone."""
    n = len(tickers)
    if name == EQUAL:
        return np.full(n, 1.0 / n) if first or close_time_s % DAY_S == 0 else None
    if name == hold_name(tickers):
        return np.eye(n)[list(tickers).index(_coin(tickers))] if first else None
    return None


def hold_name(tickers: Sequence[str]) -> str:
    return f"hold {_coin(tickers)}"


def _coin(tickers: Sequence[str]) -> str:
    return "BTC" if "BTC" in tickers else tickers[0]


def challengers(state_dir: Path, *, most: int) -> tuple[tuple[tuple[str, str], ...], list[str]]:
    """((name, artifact) of the best trials of the study judged last, what is traded anyway left out), what is unreadable.

    Who trades beside the account must not stop it.
    """
    pointer = state_dir / "champion.json"
    if most == 0 or not pointer.exists():
        return (), []
    judged, scored, unreadable = read_json(pointer), [], []
    for path in sorted((state_dir / "trials" / str(judged["study"])).glob("*/trial.json")):
        try:
            t: dict[str, Any] = read_json(path)
        except DataError as error:
            unreadable.append(f"no challenger from a trial without a record: {error}")
            continue
        if t["state"] == "COMPLETE" and t.get("score") is not None and t.get("artifact"):
            scored.append(t)
    best = sorted(scored, key=lambda t: (-t["score"], t["number"]))
    names = {t["artifact"]: f"trial {t['number']} {t['artifact'][:6]}" for t in reversed(best)}
    ordered = dict.fromkeys(t["artifact"] for t in best if t["artifact"] != judged["holds"])
    return tuple((names[a], a) for a in list(ordered)[:most]), unreadable


class Shadows:
    """All of them on one market. `walk` takes the bars in order, each once; `close` keeps what was walked."""

    def __init__(
        self, path: Path, *, artifacts: Path, spec: FeatureSpec, costs: Costs, rules: VenueRules, cash: float,
        last_bar_s: int,
    ) -> None:  # fmt: skip
        """last_bar_s: of the journal. `lost` says why the book was begun anew, "" when it was not."""
        self._db, self.lost = _opened(path)
        self._db.execute("PRAGMA synchronous = NORMAL")  # whatever is lost is derived again
        self._artifacts, self._spec, self._costs, self._rules, self._cash = artifacts, spec, costs, rules, cash
        self.accounts = {s.name: s for s in _stored(self._db) if not s.retired and s.settled_s <= last_bar_s}
        self._minds: dict[str, _Mind] = {}
        self._unwritten: list[tuple[str, int, float]] = []

    def close(self) -> None:
        """What a full disk does not take now is walked through again at the next opening."""
        try:
            self.write()
        except sqlite3.Error as error:
            if not disk_full(error):
                raise
        finally:
            self._db.close()

    def settled_s(self, default_s: int) -> int:
        """Close of the bar up to which every account has walked."""
        return min((s.settled_s for s in self.accounts.values()), default=default_s)

    def enter(
        self, roster: Iterable[tuple[str, str]], bars: Bars, anchors: Anchors, recent: Sequence[FeatureRows]
    ) -> list[str]:
        """Let baselines and `roster` trade from the last of `bars` on, retire the others, and catch up with the journal.

        bars: the journal's, from the anchor of `settled_s` on. recent: the last stack_bars feature rows. What befalls a
        shadow ends that shadow alone; the reasons, if any.
        """
        ended = []
        wanted = dict.fromkeys((EQUAL, hold_name(self._spec.tickers), CASH), "") | dict(roster)
        for name in [n for n in self.accounts if n not in wanted]:
            self._retire(name)
        for name, artifact in wanted.items():
            if artifact and not self._think(name, artifact) and name in self.accounts:
                self._retire(name)
        ended += self._catch_up(bars, anchors)
        for mind in self._minds.values():
            mind.block = _pushed(mind.window, recent)
        for name, artifact in wanted.items():
            if name not in self.accounts and (not artifact or name in self._minds):
                at_s = bars.last_close_s
                opening = Ledger.opened(self._spec.tickers, self._cash)
                self._forget(name)
                shadow = Shadow(name=name, artifact=artifact, since_s=at_s, settled_s=at_s, account=opening)
                try:
                    self.accounts[name] = self._decided(shadow, bars.close[-1])
                except CappuccinoError as error:
                    ended.append(f"{name}: {error}")
                    continue
                self._unwritten.append((name, at_s, self._cash))
        self.write()
        return ended

    def walk(self, bar: Bars, rows: Sequence[FeatureRows]) -> list[str]:
        """One closed bar: fill, mark, decide. What befalls a shadow ends that shadow alone; the reasons, if any.

        rows: what is new in the window of a policy.
        """
        ended = []
        for name, shadow in list(self.accounts.items()):
            if (mind := self._minds.get(name)) is not None:
                mind.block = _pushed(mind.window, rows)
            try:
                self.accounts[name] = self._after(shadow, bar)
            except CappuccinoError as error:
                self._retire(name)
                ended.append(f"{name}: {error}")
        if bar.last_close_s % DAY_S == 0:
            self.write()
        return ended

    def equities(self, close: NDArray[np.float64]) -> dict[str, float]:
        return {n: float(s.account.equity(close)) for n, s in self.accounts.items()}

    def write(self) -> None:
        with transaction(self._db) as db:
            for s in self.accounts.values():
                orders = json.dumps([[t, str(q)] for t, q in s.orders])
                db.execute(
                    "INSERT OR REPLACE INTO shadows VALUES (?, ?, ?, ?, ?, ?, 0)",
                    (s.name, s.artifact, s.since_s, s.settled_s, json.dumps(ledger_record(s.account)), orders),
                )
            db.executemany("INSERT OR REPLACE INTO equity VALUES (?, ?, ?)", self._unwritten)
        self._unwritten = []

    def midnights(self, name: str) -> dict[int, float]:
        """Equity at the closes that end a UTC day."""
        rows = self._db.execute(
            "SELECT close_time_s, equity FROM equity WHERE name = ? AND close_time_s % 86400 = 0", (name,)
        )
        return {int(t): float(e) for t, e in rows}

    def _after(self, shadow: Shadow, bar: Bars) -> Shadow:
        fills = simulate_fills(shadow.account, shadow.orders, bar, self._costs, self._rules) if shadow.orders else ()
        account = shadow.account.book(fills).marked(bar.close[0])
        after = replace(shadow, account=account, orders=(), settled_s=bar.last_close_s)
        self._unwritten.append((shadow.name, bar.last_close_s, float(account.equity(bar.close[0]))))
        return self._decided(after, bar.close[0])

    def _decided(self, shadow: Shadow, close: NDArray[np.float64]) -> Shadow:
        if shadow.artifact:
            mind = self._minds[shadow.name]
            assert mind.block is not None
            decision = mind.decider.decide(
                market=mind.block, ledger=shadow.account, close=close, close_time_s=shadow.settled_s
            )
            target: NDArray[np.float64] | None = np.array(decision.target)
        else:
            target = baseline_target(
                shadow.name, self._spec.tickers, first=shadow.settled_s == shadow.since_s, close_time_s=shadow.settled_s
            )
        orders = () if target is None else plan_orders(shadow.account, target, close, self._rules)
        return replace(shadow, orders=orders)

    def _think(self, name: str, artifact_id: str) -> bool:
        """Whether the policy can be loaded and sees what this pipeline computes."""
        if name not in self._minds:
            try:
                artifact = PolicyArtifact.load(self._artifacts / artifact_id)
                artifact.require_spec(self._spec)
                self._minds[name] = _Mind(decider=Decider(artifact), window=MarketWindow(artifact))
            except CappuccinoError:
                return False
        return True

    def _retire(self, name: str) -> None:
        shadow = self.accounts.pop(name)
        self._minds.pop(name, None)
        with transaction(self._db) as db:
            db.execute("UPDATE shadows SET retired = 1 WHERE name = ?", (shadow.name,))

    def _forget(self, name: str) -> None:
        """An earlier account of this name."""
        with transaction(self._db) as db:
            db.execute("DELETE FROM equity WHERE name = ?", (name,))

    def _catch_up(self, bars: Bars, anchors: Anchors) -> list[str]:
        """Walk each account through the bars that it has not seen."""
        ended: list[str] = []
        behind = [s for s in self.accounts.values() if s.settled_s < bars.last_close_s]
        if not behind:
            return ended
        rows = AnchoredRows(bars, self._spec, anchors)
        for shadow in behind:
            now, mind = shadow, self._minds.get(shadow.name)
            try:
                for k in range(bars.index_of(shadow.settled_s) + 1, bars.n_bars):
                    if mind is not None:
                        mind.block = _pushed(mind.window, rows.stack(int(bars.close_time_s[k])))
                    now = self._after(now, bars.slice(k, k + 1))
                self.accounts[shadow.name] = now
            except CappuccinoError as error:
                self._retire(shadow.name)
                ended.append(f"{shadow.name}: {error}")
        return ended


def _pushed(window: MarketWindow, rows: Sequence[FeatureRows]) -> NDArray[np.float32] | None:
    block = None
    for row in rows:
        block = window.push(row)
    return block


def _opened(path: Path) -> tuple[sqlite3.Connection, str]:
    try:
        return open_database(path, read_only=False, tables=_TABLES, schema=SCHEMA), ""
    except BookUnusable as error:
        for beside in ("", "-wal", "-shm"):
            path.with_name(path.name + beside).unlink(missing_ok=True)
        return open_database(path, read_only=False, tables=_TABLES, schema=SCHEMA), f"all begin anew: {error.args[0]}"


def _stored(db: sqlite3.Connection) -> list[Shadow]:
    rows: list[Any] = db.execute(
        "SELECT name, artifact, since_s, settled_s, account, orders, retired FROM shadows ORDER BY rowid"
    ).fetchall()
    return [
        Shadow(
            name=n, artifact=a, since_s=since, settled_s=settled, account=ledger_from(json.loads(account)),
            orders=tuple((t, Decimal(q)) for t, q in json.loads(orders)), retired=bool(retired),
        )
        for n, a, since, settled, account, orders, retired in rows
    ]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """equity (T,) at close_time_s (T,), both from the account's opening on."""

    name: str
    close_time_s: NDArray[np.int64]
    equity: NDArray[np.float64]
    fees: float
    retired: bool


def curves(path: Path) -> list[Curve]:
    """What the book holds, for a report; [] where there is none."""
    if not path.exists():
        return []
    db = open_database(path, read_only=True, tables=_TABLES, schema=SCHEMA)
    try:
        found = []
        for s in _stored(db):
            rows = db.execute("SELECT close_time_s, equity FROM equity WHERE name = ? ORDER BY 1", (s.name,)).fetchall()
            found.append(Curve(
                name=s.name, close_time_s=np.array([t for t, _ in rows], dtype=np.int64),
                equity=np.array([e for _, e in rows]), fees=float(s.account.fees), retired=s.retired,
            ))  # fmt: skip
        return found
    finally:
        db.close()
