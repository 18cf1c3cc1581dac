"""The identity of an order: derived from what it is for, so that sending it again is sending the same one."""

import uuid
from collections.abc import Sequence
from decimal import Decimal

from paper_trader.journal import Intent

_NAMESPACE = uuid.UUID("6a1d9a5e-2f0b-5a43-9c53-0f5c8f7a4c11")  # frozen: changing it could send an order twice


def client_order_id(*, account: str, artifact: str, ticker: str, close_time_s: int) -> str:
    """UUIDv5 of account, policy, ticker and bar: 36 characters, the same after any restart."""
    return str(uuid.uuid5(_NAMESPACE, f"{account}|{artifact}|{ticker}|{close_time_s}"))


def intents(
    orders: Sequence[tuple[str, Decimal]], *, account: str, artifact: str, close_time_s: int
) -> tuple[Intent, ...]:
    """One intent per (ticker, signed quantity)."""
    return tuple(
        Intent(
            client_order_id=client_order_id(account=account, artifact=artifact, ticker=t, close_time_s=close_time_s),
            ticker=t, close_time_s=close_time_s, quantity=q,
        )
        for t, q in orders
    )  # fmt: skip
