"""Paper equity beside cash, 1/N and each coin on the same bars, costs and account arithmetic."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.bars import Bars
from features.costs import Costs
from features.ledger import Ledger, plan_orders, simulate_fills
from features.venue_rules import VenueRules
from paper_trader.journal import Journal

DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Net return since the account opened and largest drawdown, both fractions."""

    name: str
    net_return: float
    max_drawdown: float
    fees: float


def lines(journal: Journal) -> list[Line]:
    """The paper account first, then the baselines over the same bars at the same costs."""
    costs, rules = journal.terms()
    marks, bars = journal.marks(), journal.bars()
    own = bars.slice(bars.index_of(marks[0][0]), bars.n_bars)
    opening = marks[0][1]
    n = bars.n_tickers
    paper = np.array([float(e) for _, _, e in marks])
    result = [_line("paper account", paper, float(marks[-1][1].fees))]
    result.append(_held("1/N daily", own, opening, np.full(n, 1.0 / n), costs, rules, daily=True))
    for i, ticker in enumerate(bars.tickers):
        result.append(_held(f"hold {ticker}", own, opening, np.eye(n)[i], costs, rules, daily=False))
    result.append(Line(name="cash", net_return=0.0, max_drawdown=0.0, fees=0.0))
    return result


def text(lines_: list[Line]) -> str:
    head = f"{'account':<16}{'net return %':>14}{'max drawdown %':>16}{'fees % of start':>17}"
    rows = [
        f"{x.name:<16}{100 * x.net_return:>14.2f}{100 * x.max_drawdown:>16.2f}{100 * x.fees:>17.2f}" for x in lines_
    ]
    return "\n".join([head, "-" * len(head), *rows])


def _held(
    name: str,
    bars: Bars,
    opening: Ledger,
    weights: NDArray[np.float64],
    costs: Costs,
    rules: VenueRules,
    *,
    daily: bool,
) -> Line:
    account, path = opening, [float(opening.equity(bars.close[0]))]
    for k in range(bars.n_bars - 1):
        due = k == 0 or (daily and int(bars.close_time_s[k]) % DAY_S == 0)
        orders = plan_orders(account, weights, bars.close[k], rules) if due else ()
        fills = simulate_fills(account, orders, bars.slice(k + 1, k + 2), costs, rules) if orders else ()
        account = account.book(fills).marked(bars.close[k + 1])
        path.append(float(account.equity(bars.close[k + 1])))
    return _line(name, np.array(path), float(account.fees))


def _line(name: str, equity: NDArray[np.float64], fees: float) -> Line:
    drawdown = float((1.0 - equity / np.maximum.accumulate(equity)).max())
    return Line(
        name=name, net_return=float(equity[-1] / equity[0] - 1.0), max_drawdown=drawdown, fees=fees / float(equity[0])
    )
