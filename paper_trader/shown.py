"""Verbs that look at the paper account and change nothing: verify, report, paper, positions, orders."""

import argparse
import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

from daemon.child.clock import SystemClock
from daemon.child.config import Config
from daemon.child.market import Waiting, open_market
from features.bars import Bars, epoch_s, utc_text
from features.errors import DataError
from features.files import read_json, write_atomic
from features.ledger import Fill
from features.sources.errors import HistoryTooShort, MarketUnavailable
from paper_trader import drift as drifting
from paper_trader import report as reporting
from paper_trader.database import whole
from paper_trader.journal import Journal
from paper_trader.parity import verify as verify_journal


def verify(_: Config, arguments: argparse.Namespace) -> int:
    """Re-derive decisions, limits, orders, fills and marks by the training path; exit 78 on any difference."""
    with _journal(arguments.state_dir) as journal:
        since_s = epoch_s(arguments.since) if arguments.since else 0
        result = verify_journal(journal, arguments.state_dir / "artifacts", since_s=since_s)
    text = (
        f"{result.decisions} decisions, {result.orders} orders, {result.fills} fills and {result.marks} account marks "
        f"re-derived from the stored bars by the training path: {len(result.mismatches)} mismatches"
    )
    say(asdict(result), "\n  ".join([text, *result.mismatches[:20]]), as_json=arguments.json)
    return 78 if result.mismatches else 0


def report(config: Config, arguments: argparse.Namespace) -> int:
    """The paper account beside 1/N, Bitcoin, cash and the challengers on the same bars, or against its own replay."""
    if arguments.drift:
        return _drift(config, arguments)
    with _journal(arguments.state_dir) as journal:
        found = reporting.compared(journal, arguments.state_dir / "paper" / "shadows.db")
    say({"accounts": [asdict(line) for line in found.lines]}, reporting.text(found), as_json=arguments.json)
    if arguments.html is not None:
        write_atomic(arguments.html, reporting.html(found).encode())
    return 0


def _drift(config: Config, arguments: argparse.Namespace) -> int:
    """Also asks the market for the journal's bars as it gives them now; without an answer they count as unrevised."""
    with _journal(arguments.state_dir) as journal:
        today = _given_today(config, journal.bars())
        found = drifting.drift(journal, arguments.state_dir / "artifacts", today=today)
    say(asdict(found), drifting.text(found), as_json=arguments.json)
    return 0


def _given_today(config: Config, stored: Bars) -> Bars | None:
    """From the market itself, as the candle store asks for no bar twice; None where it cannot give all of them."""
    try:
        source = open_market(config, Waiting(clock=SystemClock()))
        today = source.bars(after_s=stored.first_close_s - stored.timeframe_s, until_s=stored.last_close_s)
    except (MarketUnavailable, HistoryTooShort):
        return None
    comparable = today.n_bars == stored.n_bars and today.tickers == stored.tickers
    return today if comparable else None


def paper(_: Config, arguments: argparse.Namespace) -> int:
    """The account as the trader last wrote it down."""
    path = arguments.state_dir / "paper" / "status.json"
    if not path.exists():
        raise DataError(f"no paper account at {path.parent}", hint="the trader has not started yet")
    record: dict[str, Any] = read_json(path)
    say(record, _account_text(record), as_json=arguments.json)
    return 0


def positions(_: Config, arguments: argparse.Namespace) -> int:
    """What is held, what was paid for it, and what it is worth at the newest close."""
    with _journal(arguments.state_dir) as journal:
        at_s, account = journal.last_mark()
        state, bars = journal.risk_states(since_s=at_s)[at_s], journal.bars(since_s=at_s)
    close, weights = bars.close[-1], account.weights(bars.close[-1])
    rows: list[dict[str, Any]] = []
    for i, ticker in enumerate(account.tickers):
        position = state.positions[i]
        price, entry = float(close[i]), None if position is None else position.entry
        rows.append({
            "ticker": ticker, "quantity": str(account.quantity[i]), "price": price, "weight": float(weights[i]),
            "value": float(account.quantity[i]) * price, "entry": entry,
            "change": None if entry is None else price / entry - 1.0,
            "bars_held": None if position is None else position.bars, "not_bought_for_bars": state.cooling[i],
        })  # fmt: skip
    record = {"close_utc": utc_text(at_s), "cash": str(account.cash), "positions": rows}
    lines = [f"at the close of {utc_text(at_s)}, in quote currency", ""]
    lines.append(f"{'ticker':<8}{'quantity':>18}{'price':>14}{'value':>14}{'weight %':>10}{'paid':>14}{'change %':>10}")
    for r in rows:
        paid = "" if r["entry"] is None else f"{r['entry']:,.4f}"
        change = "" if r["change"] is None else f"{100 * r['change']:+.2f}"
        lines.append(
            f"{r['ticker']:<8}{r['quantity']:>18.18}{r['price']:>14,.4f}{r['value']:>14,.2f}{100 * r['weight']:>10.2f}"
            f"{paid:>14}{change:>10}"
        )
    worth = float(account.equity(close))
    lines.append(f"{'cash':<8}{'':>32}{float(account.cash):>14,.2f}{100 * float(account.cash) / (worth or 1.0):>10.2f}")
    say(record, "\n".join(lines), as_json=arguments.json)
    return 0


def orders(_: Config, arguments: argparse.Namespace) -> int:
    """The newest orders and what became of them."""
    with _journal(arguments.state_dir) as journal:
        sent = journal.intents()[-arguments.last :]
        filled = defaultdict[str, list[Fill]](list)
        for client_order_id, fill in journal.executed():
            filled[client_order_id].append(fill)
    rows = [
        {
            "decided_utc": utc_text(order.close_time_s), "ticker": order.ticker, "quantity": str(order.quantity),
            "state": order.state, **_in_all(filled[order.client_order_id]), "client_order_id": order.client_order_id,
        }
        for order in sent
    ]  # fmt: skip
    lines = [f"{'decided at':<22}{'ticker':<8}{'quantity':>18}{'state':>9}{'filled':>18}{'price':>16}"]
    lines += [
        f"{r['decided_utc']:<22.20}{r['ticker']:<8}{r['quantity']:>18.18}{r['state']:>9}{r['filled'] or '':>18.18}"
        f"{r['price'] or '':>16.12}"
        for r in rows
    ]
    say({"orders": rows}, "\n".join(lines), as_json=arguments.json)
    return 0


def _in_all(fills: Sequence[Fill]) -> dict[str, str | None]:
    """What an order filled, at which price on average and for which fees; a venue fills it in parts."""
    if not fills:
        return dict.fromkeys(("filled", "price", "fee_value"))
    quantity = sum((f.quantity for f in fills), Decimal(0))
    price = sum((f.notional for f in fills), Decimal(0)) / abs(quantity) if len(fills) > 1 else fills[0].price
    fees = sum((f.fee_value for f in fills), Decimal(0))
    return {"filled": str(quantity), "price": str(price), "fee_value": str(fees)}


def say(record: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    print(json.dumps(record) if as_json else text)  # noqa: T201  what a person or a script asked for


@contextlib.contextmanager
def _journal(state_dir: Path) -> Iterator[Journal]:
    """Raises DataError while the account has not begun, BookUnusable when its file is damaged, also where it is read."""
    path = state_dir / "paper" / "journal.db"
    with contextlib.closing(Journal(path, read_only=True)) as journal, whole(path):
        if not journal.meta():
            raise DataError(f"no paper account in {path} yet", hint="the trader waits for its market or its broker")
        yield journal


def _account_text(r: dict[str, Any]) -> str:
    halted, waits = f": {r['reason']}" if r["reason"] else "", f", waits: {r['waiting']}" if r["waiting"] else ""
    earned, lost = 100 * r["return_since_start"], 100 * r["drawdown"]
    lines = [
        f"{r['state']}{halted}{waits}",
        f"equity {r['equity']:,.2f} ({earned:+.2f} % since the start), cash {r['cash']:,.2f}, drawdown {lost:.1f} %",
        f"bar {r['last_close_utc']}: {r['decisions']} decisions, {r['fills']} fills, {r['mismatches']} mismatches",
    ]
    if r["latency_p50_s"] is not None:
        p50, p99 = 1000 * r["latency_p50_s"], 1000 * r["latency_p99_s"]
        lines.append(f"bar at hand → orders acknowledged: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    if r["drill_utc"] is not None:
        lines.append(f"kill-switch drill {'passed' if r['drill_passed'] else 'FAILED'} on {r['drill_utc'][:16]}")
    others = ", ".join(f"{name} {100 * change:+.2f} %" for name, change in r["shadows"].items())
    lines += [f"beside it: {others}"] if others else []
    if r["loss_days"]:
        lines.append(f"evidence of losing against 1/N: {r['loss_evidence']:.2f} after {r['loss_days']} days")
    return "\n".join(lines)
