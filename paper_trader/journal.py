"""The trader's memory: a SQLite file written before the outside world is touched.

WAL with synchronous=FULL: what a committed transaction says survives kill -9 and a power cut. One transaction per
durable step; each step can be repeated after a crash without changing anything twice.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import numpy as np

from features.bars import Bars, empty_bars
from features.costs import Costs
from features.decision import Decision
from features.errors import DataError
from features.ledger import Fill, Ledger
from features.venue_rules import VenueRules

SCHEMA = 2
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE bars (close_time_s INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE decisions (
    close_time_s INTEGER PRIMARY KEY, artifact TEXT NOT NULL, observation_sha256 TEXT NOT NULL,
    raw TEXT NOT NULL, target TEXT NOT NULL);
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


class Journal:
    """One writer at a time; `read_only` for everybody else."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        if read_only and not path.exists():
            raise DataError(f"no paper journal at {path}", hint="the trader has not started yet")
        self._connection = open_database(path, read_only=read_only, tables=_TABLES, schema=SCHEMA)

    def close(self) -> None:
        self._connection.close()

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

    def bars(self) -> Bars:
        """Every stored bar, oldest first; the anchor of the recursive features is the first."""
        meta = self.meta()
        tickers, timeframe_s = tuple(json.loads(meta["tickers"])), int(meta["timeframe_s"])
        rows = self._connection.execute("SELECT close_time_s, data FROM bars ORDER BY close_time_s").fetchall()
        if not rows:
            return empty_bars(tickers, timeframe_s)
        values = np.stack([np.frombuffer(data, dtype="<f8").reshape(6, len(tickers)) for _, data in rows])
        o, h, l, c, v, filled = (np.ascontiguousarray(values[:, i]) for i in range(6))
        return Bars(
            tickers=tickers, timeframe_s=timeframe_s, close_time_s=np.array([t for t, _ in rows], dtype=np.int64),
            open=o, high=h, low=l, close=c, volume=v, filled=filled.astype(np.bool_),
        )  # fmt: skip

    def last_bar_s(self) -> int:
        return int(self._connection.execute("SELECT MAX(close_time_s) FROM bars").fetchone()[0])

    def last_mark(self) -> tuple[int, Ledger]:
        """Close time and account of the newest bar that is fully settled."""
        row = self._connection.execute("SELECT close_time_s, account FROM marks ORDER BY 1 DESC LIMIT 1").fetchone()
        return int(row[0]), ledger_from(json.loads(row[1]))

    def settle(self, bar: Bars, executions: Sequence[Execution], account: Ledger) -> None:
        """One closed bar: the bar itself, what filled at its open, and the account after it, in one transaction."""
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
            db.execute("DELETE FROM meta WHERE key = 'adopt'")

    def decide(self, decision: Decision, artifact: str, intents: Sequence[Intent]) -> None:
        """The decision and every order it calls for, before any of them is sent."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO decisions VALUES (?, ?, ?, ?, ?)",
                (decision.close_time_s, artifact, decision.observation_sha256, json.dumps(decision.raw),
                 json.dumps(decision.target)),
            )  # fmt: skip
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
        """Orders in one of these states that had not expired by `alive_at_s`, in the order in which they were written."""
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

    def intent_ids(self, *, since_s: int) -> set[str]:
        """Client order ids of every order decided on since."""
        rows = self._connection.execute("SELECT client_order_id FROM intents WHERE close_time_s >= ?", (since_s,))
        return {i for (i,) in rows}

    def execution_ids(self, *, since_s: int) -> set[str]:
        """Ids of every fill booked to a bar that closed since, and of those that are older than this journal."""
        rows = self._connection.execute("SELECT execution_id FROM fills WHERE close_time_s >= ?", (since_s,))
        return {i for (i,) in rows} | set(json.loads(self.meta().get("older_fills", "[]")))

    def adopting(self) -> bool:
        """Whether an operator has said that a venue's account is right as it stands."""
        return "adopt" in self.meta()

    def decision_at(self, close_time_s: int) -> tuple[str, Decision] | None:
        """(artifact, decision) of one bar."""
        row = self._connection.execute(
            "SELECT close_time_s, artifact, observation_sha256, raw, target FROM decisions WHERE close_time_s = ?",
            (close_time_s,),
        ).fetchone()
        return None if row is None else _decision(row)

    def decisions(self) -> list[tuple[str, Decision]]:
        rows = self._connection.execute(
            "SELECT close_time_s, artifact, observation_sha256, raw, target FROM decisions ORDER BY close_time_s"
        )
        return [_decision(row) for row in rows]

    def marks(self) -> list[tuple[int, Ledger, Decimal]]:
        """(close time, account, equity) of every settled bar."""
        rows = self._connection.execute("SELECT close_time_s, account, equity FROM marks ORDER BY close_time_s")
        return [(int(t), ledger_from(json.loads(a)), Decimal(e)) for t, a, e in rows]

    def fills(self) -> list[Fill]:
        rows = self._connection.execute(
            "SELECT ticker, close_time_s, quantity, price, fee_quote, fee_base FROM fills ORDER BY close_time_s, rowid"
        )
        return [
            Fill(
                ticker=t, close_time_s=s, quantity=Decimal(q), price=Decimal(p), fee_quote=Decimal(fq),
                fee_base=Decimal(fb),
            )
            for t, s, q, p, fq, fb in rows
        ]  # fmt: skip

    def counts(self) -> dict[str, int]:
        """Number of rows by table, and of orders not yet closed."""
        tables = ("decisions", "intents", "fills", "marks")
        # the table names are ours, not the user's
        counted = {t: int(self._connection.execute(f"SELECT COUNT(*) FROM {t}").fetchone()[0]) for t in tables}  # noqa: S608
        open_orders = "SELECT COUNT(*) FROM intents WHERE state IN ('INTENT', 'UNKNOWN', 'ACKED')"
        return {**counted, "open": int(self._connection.execute(open_orders).fetchone()[0])}

    def halt(self, reason: str) -> None:
        """Latch: only `rearm` clears it, a restart does not."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('halted', ?)", (reason,))

    def rearm(self) -> None:
        """Clear a halt; of a venue's account this also says that it is right as it stands now."""
        with self._transaction() as db:
            db.execute("DELETE FROM meta WHERE key = 'halted'")
            db.execute(
                "INSERT OR IGNORE INTO meta SELECT 'adopt', 'yes' FROM meta WHERE key = 'broker' AND value <> 'simulated'"
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with transaction(self._connection) as db:
            yield db

    def _insert_bars(self, bars: Bars) -> None:
        for k in range(bars.n_bars):
            values = [getattr(bars, n)[k] for n in ("open", "high", "low", "close", "volume", "filled")]
            data = np.stack([np.asarray(v, dtype="<f8") for v in values]).tobytes()
            self._connection.execute("INSERT INTO bars VALUES (?, ?)", (int(bars.close_time_s[k]), data))

    def _insert_mark(self, close_time_s: int, account: Ledger, close: np.ndarray[Any, Any]) -> None:
        self._connection.execute(
            "INSERT INTO marks VALUES (?, ?, ?)",
            (close_time_s, json.dumps(ledger_record(account)), str(account.equity(close))),
        )


def open_database(path: Path, *, read_only: bool, tables: str, schema: int) -> sqlite3.Connection:
    """Open, check and if need be create a database. DataError when it is damaged or of another schema."""
    if read_only:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA busy_timeout = 5000")
        return connection
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 5000", "foreign_keys = ON",
                   "wal_autocheckpoint = 256", "journal_size_limit = 1048576"):  # fmt: skip
        connection.execute(f"PRAGMA {pragma}")
    verdict = connection.execute("PRAGMA integrity_check").fetchone()[0]
    if verdict != "ok":
        raise DataError(f"{path} is damaged: {verdict}", hint="cappuccinoctl restore")
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version == 0:
        with transaction(connection) as db:
            for statement in tables.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {schema}")
    elif version != schema:
        raise DataError(f"{path} has schema {version}, this program writes {schema}")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """BEGIN IMMEDIATE … COMMIT, rolled back on any exception."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLITE_FULL has already rolled back, unless it was the COMMIT that failed
            connection.execute("ROLLBACK")
        raise


def ledger_record(account: Ledger) -> dict[str, Any]:
    """The account as plain JSON; every amount as the exact decimal text."""
    return {
        "tickers": list(account.tickers), "cash": str(account.cash), "quantity": [str(q) for q in account.quantity],
        "peak": str(account.peak), "bars_since_trade": account.bars_since_trade, "fees": str(account.fees),
        "turnover": str(account.turnover),
    }  # fmt: skip


def ledger_from(record: Mapping[str, Any]) -> Ledger:
    return Ledger(
        tickers=tuple(record["tickers"]), cash=Decimal(record["cash"]),
        quantity=tuple(Decimal(q) for q in record["quantity"]), peak=Decimal(record["peak"]),
        bars_since_trade=record["bars_since_trade"], fees=Decimal(record["fees"]), turnover=Decimal(record["turnover"]),
    )  # fmt: skip


def _decision(row: Sequence[Any]) -> tuple[str, Decision]:
    return row[1], Decision(
        close_time_s=int(row[0]), observation_sha256=row[2], raw=tuple(json.loads(row[3])),
        target=tuple(json.loads(row[4])),
    )  # fmt: skip
