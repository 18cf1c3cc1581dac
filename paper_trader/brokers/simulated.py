"""The embedded broker: fills at the next open with the environment's own cost model, in a database of its own."""

import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from features.bars import Bars
from features.costs import Costs
from features.errors import DataError
from features.ledger import Fill, Ledger, simulate_fills
from features.venue_rules import VenueRules
from paper_trader.journal import Execution, Intent, ledger_from, ledger_record, open_database, transaction

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

    def __init__(self, path: Path, *, costs: Costs, rules: VenueRules, opening: Ledger, opened_s: int) -> None:
        self._costs, self._rules = costs, rules
        self._db = open_database(path, read_only=False, tables=_TABLES, schema=SCHEMA)
        with transaction(self._db) as db:
            db.execute("INSERT OR IGNORE INTO account VALUES (1, ?, ?)", (opened_s, json.dumps(ledger_record(opening))))

    def close(self) -> None:
        self._db.close()

    def submit(self, intent: Intent) -> None:
        self._rules.rule(intent.ticker)  # an unknown ticker is refused
        with transaction(self._db) as db:
            db.execute(
                "INSERT OR IGNORE INTO orders VALUES (?, ?, ?, ?, 'OPEN')",
                (intent.client_order_id, intent.ticker, str(intent.quantity), intent.close_time_s),
            )

    def executions(self, bar: Bars) -> Sequence[Execution]:
        settled_s, book = self._account()
        if bar.last_close_s > settled_s:
            self._settle(bar, settled_s, book)
        rows = self._db.execute(
            "SELECT execution_id, client_order_id, ticker, close_time_s, quantity, price, fee_quote, fee_base"
            " FROM executions WHERE close_time_s = ? ORDER BY rowid", (bar.last_close_s,)
        )  # fmt: skip
        return [
            Execution(execution_id=e, client_order_id=i, fill=Fill(
                ticker=t, close_time_s=s, quantity=Decimal(q), price=Decimal(p), fee_quote=Decimal(fq),
                fee_base=Decimal(fb)))
            for e, i, t, s, q, p, fq, fb in rows
        ]  # fmt: skip

    def account(self) -> Ledger:
        return self._account()[1]

    def order_ids(self) -> list[str]:
        """Every client order id ever accepted."""
        return [i for (i,) in self._db.execute("SELECT client_order_id FROM orders ORDER BY rowid")]

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
