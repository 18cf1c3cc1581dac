"""How the books write an account down. Pure."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from features.ledger import Ledger


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
