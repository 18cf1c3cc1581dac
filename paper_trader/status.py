"""What the trader shows of itself: the record that `cappuccinoctl status` and `paper` read. Pure."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.bars import utc_text
from features.ledger import Ledger
from paper_trader import risk
from paper_trader.champion import Holding
from paper_trader.session import Session


def status_record(
    *, session: Session, account: Ledger, close: NDArray[np.float64], settled_s: int, holding: Holding | None,
    risk_state: risk.State, counts: Mapping[str, int], latencies_s: Iterable[float], drill: Mapping[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    """Money in quote currency, shares as fractions. drawdown: from the peak that the kill switch counts from."""
    worth = float(account.equity(close))
    ordered = sorted(latencies_s)
    return {
        "schema": 1, "state": session.shown, "reason": session.reason, "waiting": session.waiting,
        "artifact": None if holding is None else holding.artifact_id,
        "champion": holding is not None and holding.is_champion, "last_close_utc": utc_text(settled_s), "equity": worth,
        "cash": float(account.cash),
        "weights": {t: round(float(w), 4) for t, w in zip(account.tickers, account.weights(close), strict=True)},
        "drawdown": 1.0 - worth / risk_state.peak if risk_state.peak else 0.0,
        "decisions": counts["decisions"], "fills": counts["fills"],
        "orders_open": counts["open"], "latency_p50_s": percentile(ordered, 0.50),
        "latency_p99_s": percentile(ordered, 0.99), "drill_utc": None if drill is None else drill["at_utc"],
        "drill_passed": None if drill is None else drill["passed"],
    }  # fmt: skip


def percentile(ordered: list[float], share: float) -> float | None:
    """The smallest value that `share` of the sorted values do not exceed; None of none."""
    return None if not ordered else ordered[max(0, math.ceil(share * len(ordered)) - 1)]
