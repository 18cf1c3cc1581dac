"""What stands between the policy's wish and the orders: `guard(limits, state, view, target)`, pure.

The policy was trained with its own cap, reserve and band (`features.allocation`), which are part of its target. What is
limited here comes on top and only ever binds where the policy's own limits do not: a target within the limits passes
to the last bit. The state follows every settled bar, decided on or not, and lies in the journal beside it, so that
`verify` can derive it again.

The kill switch holds what is held: a wrong price must not sell everything. `portfolio_trailing_stop` and `daily_loss`
sell; so does an operator's `flatten`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.allocation import Limits as Caps
from features.allocation import limit_weights
from features.ledger import Fill, Ledger, paid_in, plan_orders
from features.venue_rules import VenueRules

Float = NDArray[np.float64]
DAY_S, HOUR_S = 86_400, 3600
WITHIN = 1e-9  # of equity: rounding in the policy's own cap is not a breach of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The section [risk]. Fractions: of equity, of the price paid, of a peak. 0 is off (1.0 for max_weight, max_drawdown)."""

    max_weight: float = 1.0
    min_cash_reserve: float = 0.0
    stop_loss: float = 0.0
    trailing_stop: float = 0.0
    take_profit: float = 0.0
    portfolio_trailing_stop: float = 0.0
    daily_loss: float = 0.0
    max_drawdown: float = 1.0
    min_hold_bars: int = 0
    cooldown_bars: int = 0
    max_orders_per_hour: int = 0


class Rule(StrEnum):
    """Which limit spoke. The last two latch a halt."""

    STOP_LOSS = "stop_loss"
    TRAILING_STOP = "trailing_stop"
    TAKE_PROFIT = "take_profit"
    PORTFOLIO_STOP = "portfolio_trailing_stop"
    DAILY_LOSS = "daily_loss"
    CAPS = "caps"
    COOLDOWN = "cooldown"
    MIN_HOLD = "min_hold"
    ORDER_RATE = "max_orders_per_hour"
    KILL_SWITCH = "max_drawdown"
    NOT_FINITE = "not_finite"

    @property
    def halts(self) -> bool:
        return self in (Rule.KILL_SWITCH, Rule.NOT_FINITE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A limit that changed something. ticker: "" for the whole account; text: what was measured, in words."""

    rule: Rule
    text: str
    ticker: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """entry: average price paid; best: highest close since; bars: closes seen since it was opened."""

    entry: float
    best: float
    bars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the limits need of the past; (N,) tuples are in ticker order, money in quote currency.

    cooling: bars for which a ticker is not bought. resting: bars for which nothing is held. peak: of the kill switch,
    trail: of the portfolio's trailing stop; each begins anew when its rule has spoken and the account goes on. day:
    number of the UTC day, day_open: equity at its start, day_over: its loss was reached. sent: (close time, orders)
    of the last hour.
    """

    positions: tuple[Position | None, ...]
    cooling: tuple[int, ...]
    resting: int
    peak: float
    trail: float
    day: int
    day_open: float
    day_over: bool
    sent: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One close: close (N,) prices, the account marked at them, min_notional (N,) of the venue in quote currency."""

    close_time_s: int
    close: Float
    account: Ledger
    min_notional: Float
    flatten: bool = False

    @property
    def equity(self) -> float:
        return float(self.account.equity(self.close))


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """target: (N,) what may be ordered; None where trading must halt."""

    state: State
    target: Float | None
    events: tuple[Event, ...]


def opened(n_tickers: int, *, equity: float, close_time_s: int) -> State:
    return State(
        positions=(None,) * n_tickers, cooling=(0,) * n_tickers, resting=0, peak=equity, trail=equity,
        day=close_time_s // DAY_S, day_open=equity, day_over=False,
    )  # fmt: skip


def settled(state: State, view: View, fills: Sequence[Fill]) -> State:
    """One closed bar later, after `fills` at its open; every settled bar passes here, decided on or not."""
    worth, day, paid = view.equity, view.close_time_s // DAY_S, float(paid_in(fills))
    if paid and worth > max(0.0, paid):
        grown = worth / (worth - paid)
        state = replace(state, peak=state.peak * grown, trail=state.trail * grown, day_open=state.day_open * grown)
    new_day = day != state.day
    return replace(
        state,
        positions=tuple(_followed(state.positions[i], view, i, fills) for i in range(len(state.positions))),
        cooling=tuple(max(0, bars - 1) for bars in state.cooling), resting=max(0, state.resting - 1),
        peak=max(state.peak, worth), trail=max(state.trail, worth), day=day,
        day_open=worth if new_day else state.day_open, day_over=state.day_over and not new_day,
        sent=tuple((at_s, n) for at_s, n in state.sent if at_s > view.close_time_s - HOUR_S),
    )  # fmt: skip


def alarm(limits: Limits, state: State, view: View) -> Event | None:
    """The reason to halt at this close, if there is one. Written so that NaN halts instead of passing."""
    worth = view.equity
    numbers = [worth, state.peak, state.trail, state.day_open, *view.close, *view.account.quantity_array()]
    numbers += [x for p in state.positions if p is not None for x in (p.entry, p.best)]
    if not (np.isfinite(numbers).all() and worth > 0):
        return Event(rule=Rule.NOT_FINITE, text=f"equity {worth}, prices {view.close.tolist()}: not all are numbers")
    drawdown = 1.0 - worth / state.peak
    if not drawdown < limits.max_drawdown:
        text = f"drawdown {drawdown:.1%} reached the limit of {limits.max_drawdown:.0%}"
        return Event(rule=Rule.KILL_SWITCH, text=text)
    return None


def guard(limits: Limits, state: State, view: View, target: Float) -> Guarded:
    """The policy's target (N,) as far as the limits allow. An operator's flatten passes where the kill switch would not."""
    if not np.isfinite(target).all():
        event = Event(rule=Rule.NOT_FINITE, text=f"the target is {target.tolist()}")
        return Guarded(state=state, target=None, events=(event,))
    reason, flat = alarm(limits, state, view), np.zeros_like(target)
    if reason is not None and (reason.rule is Rule.NOT_FINITE or not view.flatten):
        return Guarded(state=state, target=None, events=(reason,))
    if view.flatten:
        return Guarded(state=state, target=flat, events=())
    state, events = _portfolio(limits, state, view)
    if state.day_over or state.resting or events:
        return Guarded(state=state, target=flat, events=events)
    held = view.account.weights(view.close)
    state, allowed, events = _positions(limits, state, view, target, held)
    breach = allowed.max(initial=0.0) > limits.max_weight + WITHIN
    if breach or allowed.sum() > 1.0 - limits.min_cash_reserve + WITHIN:
        caps = Caps(min_cash_reserve=limits.min_cash_reserve, max_weight=limits.max_weight, no_trade_band=0.0)
        text = f"largest weight {allowed.max():.3f}, invested {allowed.sum():.3f}"
        allowed, events = limit_weights(allowed, caps), (*events, Event(rule=Rule.CAPS, text=text))
    return Guarded(state=state, target=allowed, events=events)


def admit(
    limits: Limits, state: State, view: View, orders: Sequence[tuple[str, Decimal]]
) -> tuple[State, tuple[tuple[str, Decimal], ...], tuple[Event, ...]]:
    """Orders within the hourly number. Sales lower the risk: they are counted, never refused."""
    left = (
        max(0, limits.max_orders_per_hour - sum(n for _, n in state.sent))
        if limits.max_orders_per_hour
        else len(orders)
    )
    sales = [o for o in orders if o[1] < 0]
    buys = [o for o in orders if o[1] >= 0]
    room = max(0, left - len(sales))
    kept = (*sales, *buys[:room])
    events = tuple(
        Event(rule=Rule.ORDER_RATE, ticker=t, text=f"{limits.max_orders_per_hour} orders within the hour")
        for t, _ in buys[room:]
    )
    admitted = tuple(o for o in orders if o in kept)
    if not admitted:
        return state, admitted, events
    return replace(state, sent=(*state.sent, (view.close_time_s, len(admitted)))), admitted, events


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What became of a decision. target and orders: None and () where trading must halt."""

    state: State
    target: tuple[float, ...] | None
    orders: tuple[tuple[str, Decimal], ...]
    events: tuple[Event, ...]


def rule(limits: Limits, state: State, view: View, target: Sequence[float], rules: VenueRules) -> Ruling:
    """From the policy's target (N,) to the orders that may be sent: the one path of trading, shadows and proof."""
    done = guard(limits, state, view, np.array(target))
    if done.target is None:
        return Ruling(state=done.state, target=None, orders=(), events=done.events)
    orders = plan_orders(view.account, done.target, view.close, rules)
    state, orders, held_back = admit(limits, done.state, view, orders)
    guarded = tuple(map(float, done.target))
    return Ruling(state=state, target=guarded, orders=orders, events=(*done.events, *held_back))


def state_record(state: State) -> dict[str, Any]:
    """The state as plain JSON types; floats come back to the last bit."""
    return asdict(state)


def state_from(record: Mapping[str, Any]) -> State:
    return State(**{
        **record, "cooling": tuple(record["cooling"]), "sent": tuple((at_s, n) for at_s, n in record["sent"]),
        "positions": tuple(None if p is None else Position(**p) for p in record["positions"]),
    })  # fmt: skip


def rearmed(state: State, equity: float) -> State:
    """An operator has looked: drawdowns are measured from here."""
    return replace(state, peak=equity, trail=equity)


def _followed(position: Position | None, view: View, i: int, fills: Sequence[Fill]) -> Position | None:
    """The position in ticker i after this bar; None for none, or for dust that the venue would not take back."""
    size, price = float(view.account.quantity[i]), float(view.close[i])
    if size <= 0 or size * price < view.min_notional[i]:
        return None
    mine = [(float(f.quantity - f.fee_base), float(f.price)) for f in fills if f.ticker == view.account.tickers[i]]
    size -= sum(gained for gained, _ in mine)
    for gained, paid in mine:
        if gained > 0 and position is None:
            position = Position(entry=paid, best=paid, bars=0)
        elif gained > 0 and position is not None:
            position = replace(position, entry=(position.entry * size + paid * gained) / (size + gained))
        size += gained
    if position is None:  # grown out of dust by its price alone
        position = Position(entry=price, best=price, bars=0)
    return replace(position, best=max(position.best, price), bars=position.bars + 1)


def _portfolio(limits: Limits, state: State, view: View) -> tuple[State, tuple[Event, ...]]:
    worth = view.equity
    if limits.daily_loss and not state.day_over and worth <= state.day_open * (1.0 - limits.daily_loss):
        lost = 1.0 - worth / state.day_open
        return replace(state, day_over=True), (Event(rule=Rule.DAILY_LOSS, text=f"{lost:.1%} since midnight UTC"),)
    if limits.portfolio_trailing_stop and worth <= state.trail * (1.0 - limits.portfolio_trailing_stop):
        text = f"{1.0 - worth / state.trail:.1%} below the best equity"
        state = replace(state, trail=worth, resting=limits.cooldown_bars)
        return state, (Event(rule=Rule.PORTFOLIO_STOP, text=text),)
    return state, ()


def _positions(
    limits: Limits, state: State, view: View, target: Float, held: Float
) -> tuple[State, Float, tuple[Event, ...]]:
    allowed, cooling, events = target.copy(), list(state.cooling), []
    for i, position in enumerate(state.positions):
        ticker = view.account.tickers[i]
        if position is not None and (fired := _stopped(limits, position, float(view.close[i]))) is not None:
            rule, text = fired
            allowed[i], cooling[i] = 0.0, limits.cooldown_bars
            events.append(Event(rule=rule, ticker=ticker, text=text))
        elif cooling[i] and allowed[i] > held[i]:
            allowed[i] = held[i]
            events.append(Event(rule=Rule.COOLDOWN, ticker=ticker, text=f"{cooling[i]} bars left"))
        elif position is not None and position.bars < limits.min_hold_bars and allowed[i] < held[i]:
            allowed[i] = held[i]
            events.append(Event(rule=Rule.MIN_HOLD, ticker=ticker, text=f"held for {position.bars} bars"))
    return replace(state, cooling=tuple(cooling)), allowed, tuple(events)


def _stopped(limits: Limits, position: Position, price: float) -> tuple[Rule, str] | None:
    change = price / position.entry - 1.0
    if limits.stop_loss and change <= -limits.stop_loss:
        return Rule.STOP_LOSS, f"{change:.1%} from the price paid"
    if limits.trailing_stop and price <= position.best * (1.0 - limits.trailing_stop):
        return Rule.TRAILING_STOP, f"{price / position.best - 1.0:.1%} from its best close"
    if limits.take_profit and change >= limits.take_profit:
        return Rule.TAKE_PROFIT, f"{change:.1%} from the price paid"
    return None
