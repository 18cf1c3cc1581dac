"""The trader's memory: a SQLite file written before the outside world is touched.

WAL with synchronous=FULL: what a committed transaction says survives kill -9 and a power cut. One transaction per
durable step; each step can be repeated after a crash without changing anything twice.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import numpy as np

from features.bars import Bars
from features.costs import Costs
from features.decision import Decision
from features.errors import DataError
from features.ledger import Fill, Ledger
from features.venue_rules import VenueRules
from paper_trader import risk
from paper_trader.account_record import ledger_from, ledger_record
from paper_trader.anchoring import Anchors
from paper_trader.bar_log import decoded, encoded, linked
from paper_trader.database import fold_back, open_database, require_whole, transaction

SCHEMA = 3
STATES = ("INTENT", "UNKNOWN", "ACKED", "REJECTED", "ABANDONED", "CLOSED")  # see paper_trader.orders
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE bars (close_time_s INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE decisions (
    close_time_s INTEGER PRIMARY KEY, artifact TEXT NOT NULL, bars_sha256 TEXT NOT NULL, observation BLOB NOT NULL,
    raw TEXT NOT NULL, target TEXT NOT NULL, guarded TEXT NOT NULL, flatten INTEGER NOT NULL, limits TEXT NOT NULL);
CREATE TABLE risk (close_time_s INTEGER PRIMARY KEY, state TEXT NOT NULL);
CREATE TABLE rearms (close_time_s INTEGER, after_decision INTEGER, PRIMARY KEY (close_time_s, after_decision));
CREATE TABLE latencies (close_time_s INTEGER PRIMARY KEY, seconds REAL NOT NULL);
CREATE TABLE intents (
    client_order_id TEXT PRIMARY KEY, ticker TEXT NOT NULL, close_time_s INTEGER NOT NULL, quantity TEXT NOT NULL,
    sent_s REAL NOT NULL, expires_s REAL NOT NULL, state TEXT NOT NULL, order_id TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '', UNIQUE (ticker, close_time_s));
CREATE TABLE fills (
    execution_id TEXT PRIMARY KEY, client_order_id TEXT NOT NULL, ticker TEXT NOT NULL, close_time_s INTEGER NOT NULL,
    quantity TEXT NOT NULL, price TEXT NOT NULL, fee_quote TEXT NOT NULL, fee_base TEXT NOT NULL);
CREATE TABLE marks (close_time_s INTEGER PRIMARY KEY, account TEXT NOT NULL, equity TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """An order that shall reach the broker once. quantity is signed base units.

    sent_s: when it was decided on, expires_s: from when on it is not sent any more (UTC epoch seconds).
    state: see paper_trader.orders. order_id: the broker's own name for it, once known.
    """

    client_order_id: str
    ticker: str
    close_time_s: int
    quantity: Decimal
    sent_s: float
    expires_s: float
    state: str = "INTENT"
    order_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What became of one order."""

    client_order_id: str
    state: str
    order_id: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """A fill with the broker's own id for it, and the order it belongs to."""

    execution_id: str
    client_order_id: str
    fill: Fill

    def booked_at(self, close_time_s: int) -> Self:
        """With the bar in which it is booked: a venue's fills carry moments of their own."""
        return replace(self, fill=replace(self.fill, close_time_s=close_time_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A decision and what became of it. bars_sha256: chained over every stored bar up to it; guarded: (N,) what the

    limits left of the target; flatten: an operator wanted everything sold.
    """

    artifact: str
    bars_sha256: str
    decision: Decision
    guarded: tuple[float, ...]
    flatten: bool
    limits: risk.Limits


class Journal:
    """One writer at a time; `read_only` for everybody else."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        if read_only and not path.exists():
            raise DataError(f"no paper journal at {path}", hint="the trader has not started yet")
        self._connection = open_database(path, read_only=read_only, tables=_TABLES, schema=SCHEMA)
        self._latencies, self._counted_at, self._counts = list[tuple[int, float]](), (-1, -1), dict[str, int]()

    def close(self) -> None:
        self._connection.close()

    def fold_back(self) -> None:
        fold_back(self._connection)

    def check(self) -> None:
        """BookUnusable when the file is damaged."""
        require_whole(self._connection, self.path, "quick_check")

    def meta(self) -> dict[str, str]:
        return dict(self._connection.execute("SELECT key, value FROM meta"))

    def terms(self) -> tuple[Costs, VenueRules]:
        """What trading costs on this account and what the venue allows, as they stood when it was opened."""
        meta = self.meta()
        return Costs(**json.loads(meta["costs"])), VenueRules.from_dict(json.loads(meta["venue_rules"]))

    def begin(self, meta: Mapping[str, str], history: Bars, opening: Ledger) -> None:
        """The first transaction of a journal: what it trades, the history its features begin with, the account."""
        with self._transaction() as db:
            db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            self._insert_bars(history)
            self._insert_mark(history.last_close_s, opening, history.close[-1])
            worth = float(opening.equity(history.close[-1]))
            self._put_risk(
                history.last_close_s,
                risk.opened(history.n_tickers, equity=worth, close_time_s=history.last_close_s),
            )

    def bars(self, *, since_s: int = 0) -> Bars:
        """Every stored bar that closed at `since_s` or later, oldest first."""
        meta = self.meta()
        tickers, timeframe_s = tuple(json.loads(meta["tickers"])), int(meta["timeframe_s"])
        rows = self._connection.execute(
            "SELECT close_time_s, data FROM bars WHERE close_time_s >= ? ORDER BY close_time_s", (since_s,)
        ).fetchall()
        return decoded(rows, tickers=tickers, timeframe_s=timeframe_s)

    def chain(self, *, after_s: int = 0, before: str = "", until_s: int = 1 << 62) -> str:
        """Hash of every bar up to `until_s`; before: that of the bars up to `after_s`, if known."""
        rows = self._connection.execute(
            "SELECT close_time_s, data FROM bars WHERE close_time_s > ? AND close_time_s <= ? ORDER BY close_time_s",
            (after_s, until_s),
        )
        for close_time_s, data in rows:
            before = linked(before, close_time_s, data)
        return before

    def anchors(self) -> Anchors:
        meta = self.meta()
        (first_s,) = self._connection.execute("SELECT MIN(close_time_s) FROM bars").fetchone()
        return Anchors(
            first_s=int(first_s), opened_s=int(meta["start_s"]), timeframe_s=int(meta["timeframe_s"]),
            every_bars=int(meta["anchor_bars"]),
        )  # fmt: skip

    def last_bar_s(self) -> int:
        return int(self._connection.execute("SELECT MAX(close_time_s) FROM bars").fetchone()[0])

    def last_mark(self) -> tuple[int, Ledger]:
        """Close time and account of the newest bar that is fully settled."""
        row = self._connection.execute("SELECT close_time_s, account FROM marks ORDER BY 1 DESC LIMIT 1").fetchone()
        return int(row[0]), ledger_from(json.loads(row[1]))

    def opened_with(self) -> float:
        """Equity at the account's opening: of a venue's account, what it held then was worth."""
        return float(self._connection.execute("SELECT equity FROM marks ORDER BY close_time_s LIMIT 1").fetchone()[0])

    def settle(self, bar: Bars, executions: Sequence[Execution], account: Ledger, state: risk.State) -> None:
        """One closed bar: the bar, what filled at its open, account and limits after it, in one transaction."""
        with self._transaction() as db:
            self._insert_bars(bar)
            for execution in executions:
                f = execution.fill
                db.execute(
                    "INSERT INTO fills VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (execution.execution_id, execution.client_order_id, f.ticker, f.close_time_s, str(f.quantity),
                     str(f.price), str(f.fee_quote), str(f.fee_base)),
                )  # fmt: skip
            db.execute(
                "UPDATE intents SET state = 'CLOSED' WHERE state = 'ACKED' AND close_time_s < ?", (bar.last_close_s,)
            )
            self._insert_mark(bar.last_close_s, account, bar.close[-1])
            self._put_risk(bar.last_close_s, state)
            db.executemany("INSERT OR REPLACE INTO latencies VALUES (?, ?)", self._latencies)
            db.execute("DELETE FROM meta WHERE key = 'adopt'")
        self._latencies = []

    def decide(self, decided: Decided, state: risk.State, intents: Sequence[Intent]) -> None:
        """The decision, the limits' state after it and every order it calls for, before any of them is sent."""
        d = decided.decision
        with self._transaction() as db:
            db.execute(
                "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (d.close_time_s, decided.artifact, decided.bars_sha256, d.observation, json.dumps(d.raw),
                 json.dumps(d.target), json.dumps(decided.guarded), decided.flatten, json.dumps(asdict(decided.limits))),
            )  # fmt: skip
            self._put_risk(d.close_time_s, state)
            for i in intents:
                db.execute(
                    "INSERT INTO intents VALUES (?, ?, ?, ?, ?, ?, ?, '', '')",
                    (i.client_order_id, i.ticker, i.close_time_s, str(i.quantity), i.sent_s, i.expires_s, i.state),
                )

    def note(self, notes: Sequence[Note]) -> None:
        """What became of several orders, in one transaction."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE intents SET state = ?, order_id = ?, reason = ? WHERE client_order_id = ?",
                [(n.state, n.order_id, n.reason, n.client_order_id) for n in notes],
            )

    def intents(self, *states: str, alive_at_s: float = 0.0) -> list[Intent]:
        """Orders in one of these states (or in any) that had not expired by `alive_at_s`, in the order of writing."""
        states = states or STATES
        marks = ", ".join("?" * len(states))
        rows = self._connection.execute(  # the marks are ours, not the user's
            "SELECT client_order_id, ticker, close_time_s, quantity, sent_s, expires_s, state, order_id FROM intents"  # noqa: S608
            f" WHERE state IN ({marks}) AND expires_s > ? ORDER BY rowid", (*states, alive_at_s)
        )  # fmt: skip
        return [
            Intent(
                client_order_id=i, ticker=t, close_time_s=s, quantity=Decimal(q), sent_s=sent, expires_s=expires,
                state=state, order_id=order_id,
            )
            for i, t, s, q, sent, expires, state, order_id in rows
        ]  # fmt: skip

    def refusals(self, *, since_s: int) -> list[str]:
        """Why the broker would not have orders that were decided on since, and after the last rearm."""
        rows = self._connection.execute(
            "SELECT reason FROM intents WHERE state = 'REJECTED' AND close_time_s >= ?"
            " AND close_time_s > (SELECT COALESCE(MAX(close_time_s), 0) FROM rearms) ORDER BY rowid", (since_s,)
        )  # fmt: skip
        return [reason for (reason,) in rows]

    def intent_ids(self, *, since_s: int) -> set[str]:
        """Client order ids of every order decided on since."""
        rows = self._connection.execute("SELECT client_order_id FROM intents WHERE close_time_s >= ?", (since_s,))
        return {i for (i,) in rows}

    def is_booked(self, execution_id: str) -> bool:
        """Whether the fill is booked, to whichever bar, or older than this journal."""
        asked = "SELECT 1 FROM fills WHERE execution_id = ?"
        found = self._connection.execute(asked, (execution_id,)).fetchone() is not None
        return found or execution_id in json.loads(self.meta().get("older_fills", "[]"))

    def adopting(self) -> bool:
        """Whether an operator has said that a venue's account is right as it stands."""
        return "adopt" in self.meta()

    def decision_at(self, close_time_s: int) -> bool:
        """Whether this bar was decided on."""
        asked = "SELECT 1 FROM decisions WHERE close_time_s = ?"
        return self._connection.execute(asked, (close_time_s,)).fetchone() is not None

    def last_decided(self) -> Decided | None:
        row = self._connection.execute("SELECT * FROM decisions ORDER BY close_time_s DESC LIMIT 1").fetchone()
        return None if row is None else _decided(row)

    def decisions(self, *, since_s: int = 0) -> list[Decided]:
        rows = self._connection.execute(
            "SELECT * FROM decisions WHERE close_time_s >= ? ORDER BY close_time_s", (since_s,)
        )
        return [_decided(row) for row in rows]

    def marks(self, *, since_s: int = 0) -> list[tuple[int, Ledger, Decimal]]:
        """(close time, account, equity) of every settled bar."""
        rows = self._connection.execute(
            "SELECT close_time_s, account, equity FROM marks WHERE close_time_s >= ? ORDER BY close_time_s", (since_s,)
        )
        return [(int(t), ledger_from(json.loads(a)), Decimal(e)) for t, a, e in rows]

    def risk_states(self, *, since_s: int = 0) -> dict[int, risk.State]:
        """Close time → the limits' state when everything about that bar was done."""
        rows = self._connection.execute("SELECT close_time_s, state FROM risk WHERE close_time_s >= ?", (since_s,))
        return {int(t): risk.state_from(json.loads(s)) for t, s in rows}

    def rearms(self) -> set[tuple[int, bool]]:
        """(close time, after the decision on that bar?) of every time an operator let a halted account go on."""
        rows = self._connection.execute("SELECT close_time_s, after_decision FROM rearms")
        return {(int(t), bool(after)) for t, after in rows}

    def latencies(self, *, most: int) -> list[float]:
        """Seconds from a bar at hand to its orders acknowledged, of the newest `most` decisions, oldest first."""
        rows = self._connection.execute("SELECT seconds FROM latencies ORDER BY close_time_s DESC LIMIT ?", (most,))
        return [float(s) for (s,) in rows][::-1]

    def midnights(self) -> dict[int, float]:
        """Close time → equity of the closes that end a UTC day."""
        rows = self._connection.execute("SELECT close_time_s, equity FROM marks WHERE close_time_s % 86400 = 0")
        return {int(t): float(e) for t, e in rows}

    def fills(self) -> list[Fill]:
        return [fill for _, fill in self.executed()]

    def executed(self) -> list[tuple[str, Fill]]:
        """(client order id, fill), oldest first; the id is "" where a venue's rounding was booked."""
        rows = self._connection.execute(
            "SELECT client_order_id, ticker, close_time_s, quantity, price, fee_quote, fee_base FROM fills"
            " ORDER BY close_time_s, rowid"
        )
        return [
            (i, Fill(
                ticker=t, close_time_s=s, quantity=Decimal(q), price=Decimal(p), fee_quote=Decimal(fq),
                fee_base=Decimal(fb),
            ))
            for i, t, s, q, p, fq, fb in rows
        ]  # fmt: skip

    def counts(self) -> dict[str, int]:
        """Number of rows by table, and of orders not yet closed.

        Asked for every second, and as long as everything that is there: counted anew only when something was written.
        """
        (by_others,) = self._connection.execute("PRAGMA data_version").fetchone()
        written = (by_others, self._connection.total_changes)
        if written != self._counted_at:
            tables = ("decisions", "intents", "fills", "marks")
            # the table names are ours, not the user's
            asked = {t: f"SELECT COUNT(*) FROM {t}" for t in tables}  # noqa: S608
            asked["open"] = "SELECT COUNT(*) FROM intents WHERE state IN ('INTENT', 'UNKNOWN', 'ACKED')"
            counts = {name: int(self._connection.execute(text).fetchone()[0]) for name, text in asked.items()}
            self._counted_at, self._counts = written, counts
        return dict(self._counts)

    def halt(self, reason: str) -> None:
        """Latch: only `rearm` clears it, a restart does not."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('halted', ?)", (reason,))

    def told(self, number: int, *, operator: str | None = None, rearmed: risk.State | None = None) -> None:
        """An operator's request, taken up once: another standing order, or the halt forgotten."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('operator_number', ?)", (str(number),))
            if operator is not None:
                db.execute("INSERT OR REPLACE INTO meta VALUES ('operator', ?)", (operator,))
            if rearmed is not None:
                at_s = self.last_mark()[0]
                (after,) = db.execute("SELECT COUNT(*) FROM decisions WHERE close_time_s = ?", (at_s,)).fetchone()
                db.execute("DELETE FROM meta WHERE key = 'halted'")
                # of a venue's account this also says that it is right as it stands now
                db.execute(
                    "INSERT OR IGNORE INTO meta SELECT 'adopt', 'yes' FROM meta WHERE key = 'broker' AND value <> 'simulated'"
                )
                db.execute("INSERT OR IGNORE INTO rearms VALUES (?, ?)", (at_s, after))
                self._put_risk(at_s, rearmed)

    def note_latency(self, close_time_s: int, seconds: float) -> None:
        """Written down with the next bar: a number to look at is not worth a transaction."""
        self._latencies.append((close_time_s, seconds))

    def _put_risk(self, close_time_s: int, state: risk.State) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO risk VALUES (?, ?)", (close_time_s, json.dumps(risk.state_record(state)))
        )

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self._connection)

    def _insert_bars(self, bars: Bars) -> None:
        for k in range(bars.n_bars):
            self._connection.execute("INSERT INTO bars VALUES (?, ?)", (int(bars.close_time_s[k]), encoded(bars, k)))

    def _insert_mark(self, close_time_s: int, account: Ledger, close: np.ndarray[Any, Any]) -> None:
        self._connection.execute(
            "INSERT INTO marks VALUES (?, ?, ?)",
            (close_time_s, json.dumps(ledger_record(account)), str(account.equity(close))),
        )


def _decided(row: Sequence[Any]) -> Decided:
    close_time_s, artifact, bars_sha256, observation, raw, target, guarded, flatten, limits = row
    return Decided(
        artifact=artifact, bars_sha256=bars_sha256, guarded=tuple(json.loads(guarded)), flatten=bool(flatten),
        limits=risk.Limits(**json.loads(limits)),
        decision=Decision(
            close_time_s=int(close_time_s), observation=observation, raw=tuple(json.loads(raw)),
            target=tuple(json.loads(target)),
        ),
    )  # fmt: skip
