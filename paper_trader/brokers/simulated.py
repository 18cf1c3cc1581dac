"""The embedded broker: fills at the next open with the environment's own cost model, in a database of its own."""

import json
from collections.abc import Container, Sequence
from decimal import Decimal
from pathlib import Path

from features.bars import Bars
from features.costs import Costs
from features.errors import DataError
from features.ledger import Fill, Ledger, simulate_fills
from features.venue_rules import VenueRules
from paper_trader.account_record import ledger_from, ledger_record
from paper_trader.brokers.base import Absent, Accepted, Found, Knowledge, Known, Outcome, Rejected, Sight, Traits
from paper_trader.database import fold_back, open_database, transaction
from paper_trader.journal import Execution, Intent

SCHEMA = 1
_TABLES = """
CREATE TABLE orders (
    client_order_id TEXT PRIMARY KEY, ticker TEXT NOT NULL, quantity TEXT NOT NULL, close_time_s INTEGER NOT NULL,
    state TEXT NOT NULL);
CREATE TABLE executions (
    execution_id TEXT PRIMARY KEY, client_order_id TEXT NOT NULL, ticker TEXT NOT NULL, close_time_s INTEGER NOT NULL,
    quantity TEXT NOT NULL, price TEXT NOT NULL, fee_quote TEXT NOT NULL, fee_base TEXT NOT NULL);
CREATE TABLE account (id INTEGER PRIMARY KEY CHECK (id = 1), last_bar_s INTEGER NOT NULL, book TEXT NOT NULL);
"""


class SimulatedBroker:
    """Market orders, good for the next bar's open only; what volume or cash did not allow expires."""

    # orders are for a bar, whatever the clock says meanwhile; nothing is under way, nothing lags, nothing is rounded, and
    # dust is sold as the environment sells it
    traits = Traits(
        order_life_s=float("inf"), late_s=0.0, settles_s=0.0, cash_unit=Decimal(0), coin_unit=Decimal(0),
        whole_lots=False,
    )  # fmt: skip

    def __init__(self, path: Path, *, costs: Costs, rules: VenueRules, opening: Ledger, opened_s: int) -> None:
        self._costs, self._rules = costs, rules
        self._db = open_database(path, read_only=False, tables=_TABLES, schema=SCHEMA)
        with transaction(self._db) as db:
            db.execute("INSERT OR IGNORE INTO account VALUES (1, ?, ?)", (opened_s, json.dumps(ledger_record(opening))))

    def close(self) -> None:
        self._db.close()

    def submit(self, intent: Intent) -> Outcome:
        if intent.ticker not in dict(self._rules.rules):
            return Rejected(reason=f"there is no market for {intent.ticker}")
        with transaction(self._db) as db:
            db.execute(
                "INSERT OR IGNORE INTO orders VALUES (?, ?, ?, ?, 'OPEN')",
                (intent.client_order_id, intent.ticker, str(intent.quantity), intent.close_time_s),
            )
        return Accepted(order_id=intent.client_order_id)

    def find(self, intent: Intent) -> Sight:
        one = self._db.execute("SELECT 1 FROM orders WHERE client_order_id = ?", (intent.client_order_id,)).fetchone()
        return Found(order_id=intent.client_order_id) if one else Absent()

    def cancel(self, intent: Intent) -> None:
        with transaction(self._db) as db:
            db.execute(
                "UPDATE orders SET state = 'CANCELLED' WHERE client_order_id = ? AND state = 'OPEN'",
                (intent.client_order_id,),
            )

    def open_orders(self) -> frozenset[str]:
        rows = self._db.execute("SELECT client_order_id FROM orders WHERE state = 'OPEN'")
        return frozenset(i for (i,) in rows)

    def executions(self, *, after_s: int, booked: Container[str]) -> Sequence[Execution]:
        rows = self._db.execute(
            "SELECT execution_id, client_order_id, ticker, close_time_s, quantity, price, fee_quote, fee_base"
            " FROM executions WHERE close_time_s > ? ORDER BY rowid", (after_s,)
        )  # fmt: skip
        return [
            Execution(execution_id=e, client_order_id=i, fill=Fill(
                ticker=t, close_time_s=s, quantity=Decimal(q), price=Decimal(p), fee_quote=Decimal(fq),
                fee_base=Decimal(fb)))
            for e, i, t, s, q, p, fq, fb in rows if e not in booked
        ]  # fmt: skip

    def account(self) -> Knowledge:
        book = self._account()[1]
        return Known(cash=book.cash, quantity=dict(zip(book.tickers, book.quantity, strict=True)))

    def on_bar(self, bar: Bars) -> None:
        settled_s, book = self._account()
        if bar.last_close_s > settled_s:
            self._settle(bar, settled_s, book)

    def rest(self) -> None:
        fold_back(self._db)

    def stands_at(self) -> int | None:
        return self._account()[0]

    def _account(self) -> tuple[int, Ledger]:
        last_bar_s, book = self._db.execute("SELECT last_bar_s, book FROM account").fetchone()
        return int(last_bar_s), ledger_from(json.loads(book))

    def _settle(self, bar: Bars, settled_s: int, book: Ledger) -> None:
        """Fill what was ordered before this bar, once, in one transaction."""
        if bar.n_bars != 1 or bar.first_close_s != settled_s + bar.timeframe_s:
            raise DataError(f"the broker stands at {settled_s}, it cannot settle the bar of {bar.first_close_s}")
        rows = self._db.execute(
            "SELECT client_order_id, ticker, quantity FROM orders WHERE state = 'OPEN' ORDER BY rowid"
        )
        orders = [(i, t, Decimal(q)) for i, t, q in rows]
        fills = simulate_fills(book, [(t, q) for _, t, q in orders], bar, self._costs, self._rules)
        ids = {t: i for i, t, _ in orders}
        with transaction(self._db) as db:
            for f in fills:
                execution_id = f"{bar.last_close_s}::{ids[f.ticker]}"
                db.execute(
                    "INSERT INTO executions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (execution_id, ids[f.ticker], f.ticker, f.close_time_s, str(f.quantity), str(f.price),
                     str(f.fee_quote), str(f.fee_base)),
                )  # fmt: skip
            filled = {f.ticker for f in fills}
            for i, t, _ in orders:
                db.execute(
                    "UPDATE orders SET state = ? WHERE client_order_id = ?", ("FILLED" if t in filled else "EXPIRED", i)
                )
            after = book.book(fills).marked(bar.close[0])
            db.execute(
                "UPDATE account SET last_bar_s = ?, book = ?", (bar.last_close_s, json.dumps(ledger_record(after)))
            )
