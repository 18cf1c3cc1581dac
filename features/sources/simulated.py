"""Seeded markets made of numbers: a stochastic-volatility world, its driftless null, and one with a known signal.

Nothing measured here is performance. A world is a pure function of (parameters, seed, GENERATOR_VERSION), each random
quantity draws from its own stream named by ticker and purpose, so a longer world begins with the shorter one and, in
`sv` and `null`, adding a ticker leaves the others as they were.

Worlds (a fourth, `bootstrap`, reshuffles recorded candles and lives in `bootstrap.py`)
    sv       one factor, three-scale log-volatility, regimes with drift, jumps, daily and weekly seasonality, and the
             slight reversal of yesterday's return that real hours show
    null     the same without drift and reversal: E[simple return | past] is exactly 0 in every bar, so no policy beats cash
    planted  `null` plus the observable cross-sectional momentum of `planted.py`

The zero mean needs no volatility correction. Bars are built as *simple* returns from shocks that are symmetric given
the past (Student t(6) innovations, normal jumps), and the only truncation, at ±RETURN_BOUND, is symmetric too; the
log return log1p(R) then carries the usual −variance/2 by itself.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from features.bars import Bars
from features.errors import ConfigurationError
from features.sources.planted import YEAR_S, returns_with_signal, signal_strength
from features.venue_rules import VenueRules

Float = NDArray[np.float64]
World = Literal["sv", "null", "planted"]

GENERATOR_VERSION = 2  # bumped whenever the same seed would give other numbers
DAY_S = 86400.0
RETURN_BOUND = 0.5

FACTOR_VOLATILITY = 0.75  # annual
VOLATILITY_HALF_LIFE_S = (60 * DAY_S, 4 * DAY_S, 6 * 3600.0)
# The slow part carries the memory of |r| over 720 hours. What it adds to the tails is taken from the fast part, and the
# sudden hours that the fast part made are jumps instead.
VOLATILITY_VARIANCE = (0.26, 0.05, 0.06)
LEVERAGE = -0.25
TAIL_DEGREES = 6
REGIME_DWELL_S = (60 * DAY_S, 25 * DAY_S, 8 * DAY_S)  # calm, bear, stress
REGIME_LOG_VOLATILITY = (-0.15, 0.05, 0.55)
REGIME_DRIFT = (0.9, -0.6, -1.5)  # annual, `sv` only
DAY_REVERSAL = 0.03  # share of the same hour's move yesterday that is taken back, `sv` only
MARKET_JUMP_EVERY_S, MARKET_JUMP_SD = 4 * DAY_S, 0.020
OWN_JUMP_EVERY_S, OWN_JUMP_SD = 10 * DAY_S, 0.038  # sd per unit of annual volatility: wild coins jump further
OWN_LOADING = 0.6  # share of the factor's log-volatility in a ticker's own
OWN_NOISE_HALF_LIFE_S, OWN_NOISE_VARIANCE = 2 * DAY_S, 0.10
RANGE_SCALE = 1.07
VOLUME_NOISE_HALF_LIFE_S, VOLUME_NOISE_VARIANCE = 12 * 3600.0, 0.25

# Mean |return| of BTC by UTC hour of opening and by weekday from Monday, 2020-10 to 2024-09, relative to the mean.
HOUR_SCALE = np.array([
    1.17, 1.04, 0.91, 0.86, 0.75, 0.80, 0.82, 0.89, 0.99, 0.88, 0.87, 0.89,
    1.07, 1.17, 1.37, 1.24, 1.11, 1.05, 1.04, 1.05, 1.10, 1.01, 0.97, 0.96,
])  # fmt: skip
WEEKDAY_SCALE = np.array([1.11, 1.09, 1.13, 1.05, 1.08, 0.73, 0.81])


@dataclass(frozen=True, slots=True, kw_only=True)
class TickerCharacter:
    """start_price in quote currency, own_volatility annual, turnover in quote currency per hour."""

    start_price: float
    beta: float
    own_volatility: float
    turnover_per_hour: float


def _character(price: float, beta: float, own: float, turnover: float) -> TickerCharacter:
    return TickerCharacter(start_price=price, beta=beta, own_volatility=own, turnover_per_hour=turnover)


KNOWN_TICKERS = {
    "AAVE": _character(85.0, 1.25, 0.70, 3e6),
    "AVAX": _character(12.0, 1.20, 0.80, 5e6),
    "BTC": _character(29_000.0, 0.78, 0.20, 8e7),
    "ETH": _character(740.0, 1.00, 0.32, 4e7),
    "LINK": _character(11.5, 1.12, 0.56, 6e6),
    "LTC": _character(125.0, 1.02, 0.50, 7e6),
    "UNI": _character(5.0, 1.20, 0.66, 4e6),
}


def simulate(
    *, world: World, seed: int, bars: int, tickers: tuple[str, ...], timeframe_s: int, start_s: int,
    oracle_sharpe: float = 1.5,
) -> Bars:  # fmt: skip
    """`bars` closed bars; the first opens at `start_s` (UTC epoch seconds, on the timeframe's grid).

    oracle_sharpe: strength of the signal in `planted` (see `planted.signal_strength`); ignored elsewhere.
    Raises ConfigurationError for an unknown world, fewer than two bars or a start off the grid.
    """
    _require(world, bars, tickers, timeframe_s, start_s)
    characters = [_character_of(ticker, seed) for ticker in tickers]
    beta = np.array([c.beta for c in characters])
    usual_annual = np.hypot(beta * FACTOR_VOLATILITY, [c.own_volatility for c in characters])
    opened_s = start_s + timeframe_s * np.arange(bars, dtype=np.int64)
    regime = _regimes(seed, bars, timeframe_s)

    returns, sd = _shocks(seed, tickers, characters, usual_annual, regime, opened_s, timeframe_s)
    if world == "sv":
        drift = np.array(REGIME_DRIFT)[regime] * timeframe_s / YEAR_S
        returns = _yesterday_reversed(returns, timeframe_s) + beta * drift[:, None]
    elif world == "planted":
        returns = returns_with_signal(returns, strength=signal_strength(oracle_sharpe), timeframe_s=timeframe_s)

    start_price = np.array([c.start_price for c in characters])
    log_close = np.log(start_price) + np.cumsum(np.log1p(returns), axis=0)
    log_open = np.vstack([np.log(start_price)[None], log_close[:-1]])
    high, low = _extremes(seed, tickers, log_open, log_close, RANGE_SCALE * sd)
    usual_sd = usual_annual * np.sqrt(timeframe_s / YEAR_S)
    turnover = np.array([c.turnover_per_hour for c in characters]) * timeframe_s / 3600.0
    return Bars(
        tickers=tickers, timeframe_s=timeframe_s, close_time_s=opened_s + timeframe_s,
        open=np.exp(log_open), high=np.exp(high), low=np.exp(low), close=np.exp(log_close),
        volume=_volume(seed, tickers, returns, sd, usual_sd, turnover, timeframe_s) / np.exp(log_close),
        filled=np.zeros(returns.shape, dtype=np.bool_),
    )  # fmt: skip


def _shocks(
    seed: int, tickers: tuple[str, ...], characters: list[TickerCharacter], usual_annual: Float,
    regime: NDArray[np.int64], opened_s: NDArray[np.int64], timeframe_s: int,
) -> tuple[Float, Float]:  # fmt: skip
    """(T, N) simple returns of mean 0 given the past, and the (T, N) standard deviation of each without its jumps."""
    bars, step, season = len(opened_s), np.sqrt(timeframe_s / YEAR_S), season_scale(opened_s, timeframe_s)
    beta = np.array([c.beta for c in characters])
    innovation = _student(seed, "factor", bars)
    log_vol = _factor_log_volatility(seed, innovation, regime, timeframe_s)
    factor_sd = FACTOR_VOLATILITY * step * season * np.exp(log_vol - _normaliser(1.0))
    factor = factor_sd * innovation + _jumps(seed, "market", bars, MARKET_JUMP_EVERY_S, MARKET_JUMP_SD, timeframe_s)

    own_log_vol = OWN_LOADING * log_vol[:, None] + _columns(
        _autoregression(seed, f"{t}.volatility", bars, OWN_NOISE_HALF_LIFE_S, OWN_NOISE_VARIANCE, timeframe_s)
        for t in tickers
    )
    own_annual = np.array([c.own_volatility for c in characters])
    own_sd = own_annual * step * season[:, None] * np.exp(own_log_vol - _normaliser(OWN_LOADING, OWN_NOISE_VARIANCE))
    own = own_sd * _columns(_student(seed, t, bars) for t in tickers)
    jump_sds = (OWN_JUMP_SD * usual_annual).tolist()
    own += _columns(
        _jumps(seed, t, bars, OWN_JUMP_EVERY_S, sd, timeframe_s) for t, sd in zip(tickers, jump_sds, strict=True)
    )
    shock = np.clip(beta * factor[:, None] + own, -RETURN_BOUND, RETURN_BOUND)
    return shock, np.hypot(beta * factor_sd[:, None], own_sd)


def _require(world: str, bars: int, tickers: tuple[str, ...], timeframe_s: int, start_s: int) -> None:
    if world not in get_args(World):
        raise ConfigurationError(
            f"there is no world {world!r}", hint=f"simulation.world is one of {', '.join(get_args(World))}, bootstrap"
        )
    if bars < 2 or timeframe_s <= 0:
        raise ConfigurationError(f"cannot simulate {bars} bars of {timeframe_s} s")
    if start_s % timeframe_s:
        raise ConfigurationError(
            f"simulation.start_utc is off the grid of {timeframe_s} s", hint="start on a full hour for hourly bars"
        )
    if world == "planted" and len(tickers) < 2:
        raise ConfigurationError("the planted signal is relative to other tickers", hint="configure two or more")


def season_scale(opened_s: NDArray[np.int64], timeframe_s: int) -> Float:
    """(T,) volatility scale of bars opening at `opened_s`, mean square 1 over a full week."""
    hour = HOUR_SCALE if timeframe_s < DAY_S else np.ones(24)
    weekday = WEEKDAY_SCALE if timeframe_s <= DAY_S else np.ones(7)
    root_mean_square = np.sqrt(np.mean(hour**2) * np.mean(weekday**2))
    thursday = 3  # 1970-01-01
    scale: Float = hour[opened_s // 3600 % 24] * weekday[(opened_s // 86400 + thursday) % 7] / root_mean_square
    return scale


def stream(seed: int, purpose: str) -> np.random.Generator:
    """The generator of one random quantity; streams of different purposes are independent."""
    key = np.frombuffer(hashlib.sha256(purpose.encode()).digest()[:16], dtype="<u4")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=[int(k) for k in key])))


def _character_of(ticker: str, seed: int) -> TickerCharacter:
    if ticker in KNOWN_TICKERS:
        return KNOWN_TICKERS[ticker]
    draw = stream(seed, f"{ticker}.character").uniform(size=4)
    own = 0.20 * (0.82 / 0.20) ** draw[1]
    return _character(10.0 ** (3.0 * draw[2]), 0.75 + 0.55 * draw[0], own, 10.0 ** (6.0 + 1.5 * draw[3]))


def _columns(parts: Iterable[Float]) -> Float:
    return np.stack(list(parts), axis=1)


def _student(seed: int, name: str, bars: int) -> Float:
    """(T,) Student t innovations with variance 1."""
    scale = np.sqrt((TAIL_DEGREES - 2) / TAIL_DEGREES)
    innovation: Float = stream(seed, f"{name}.innovation").standard_t(TAIL_DEGREES, bars) * scale
    return innovation


def _jumps(seed: int, name: str, bars: int, every_s: float, sd: float, timeframe_s: int) -> Float:
    happens = stream(seed, f"{name}.jump_time").random(bars) < timeframe_s / every_s
    return np.where(happens, stream(seed, f"{name}.jump_size").normal(0.0, sd, bars), 0.0)


def _yesterday_reversed(returns: Float, timeframe_s: int) -> Float:
    """(T, N) returns less DAY_REVERSAL of those 24 hours earlier; unchanged where bars do not divide a day."""
    lag, rest = divmod(int(DAY_S), timeframe_s)
    earlier = np.zeros_like(returns)
    if lag and not rest:
        earlier[lag:] = returns[:-lag]
    return returns - DAY_REVERSAL * earlier


def _regimes(seed: int, bars: int, timeframe_s: int) -> NDArray[np.int64]:
    """(T,) regime numbers; a regime lasts a geometric number of bars and gives way to either other one alike."""
    rng = stream(seed, "regime")
    regime = np.empty(bars, dtype=np.int64)
    at, current = 0, int(rng.choice(3, p=_regime_shares()))
    while at < bars:
        dwell = int(rng.geometric(min(1.0, timeframe_s / REGIME_DWELL_S[current])))
        regime[at : at + dwell] = current
        at += dwell
        current = (current + 1 + int(rng.integers(2))) % 3
    return regime


def _regime_shares() -> Float:
    dwell = np.array(REGIME_DWELL_S)
    shares: Float = dwell / dwell.sum()
    return shares


def _normaliser(loading: float, extra_variance: float = 0.0) -> float:
    """Half the log of E[exp(2·log-volatility)], so that stated volatilities are root mean squares."""
    gaussian = loading**2 * sum(VOLATILITY_VARIANCE) + extra_variance
    regimes = np.log(_regime_shares() @ np.exp(2.0 * loading * np.array(REGIME_LOG_VOLATILITY)))
    return float(gaussian + regimes / 2.0)


def _factor_log_volatility(seed: int, innovation: Float, regime: NDArray[np.int64], timeframe_s: int) -> Float:
    bars = len(innovation)
    total = np.array(REGIME_LOG_VOLATILITY)[regime]
    for k, (half_life_s, variance) in enumerate(zip(VOLATILITY_HALF_LIFE_S, VOLATILITY_VARIANCE, strict=True)):
        fastest = k == len(VOLATILITY_VARIANCE) - 1
        lever = LEVERAGE * np.concatenate([[0.0], innovation[:-1]]) if fastest else None
        total = total + _autoregression(seed, f"volatility.{k}", bars, half_life_s, variance, timeframe_s, lever)
    return total


def _autoregression(
    seed: int, name: str, bars: int, half_life_s: float, variance: float, timeframe_s: int, lever: Float | None = None
) -> Float:
    """(T,) stationary AR(1). lever: (T,) part of the unit-variance innovation that is given; noise supplies the rest."""
    rng = stream(seed, f"{name}.autoregression")
    decay = 0.5 ** (timeframe_s / half_life_s)
    first = rng.standard_normal()
    noise = rng.standard_normal(bars)
    if lever is not None:
        noise = lever + np.sqrt(1.0 - LEVERAGE**2) * noise
    shock = np.sqrt(variance * (1.0 - decay**2)) * noise
    path = np.empty(bars)
    value = np.sqrt(variance) * first
    for t, jolt in enumerate(shock.tolist()):
        value = decay * value + jolt
        path[t] = value
    return path


def _extremes(seed: int, tickers: tuple[str, ...], log_open: Float, log_close: Float, sd: Float) -> tuple[Float, Float]:
    """Log high and low of a Brownian bridge from open to close with standard deviation `sd` per bar; all (T, N)."""
    bars = len(log_open)
    # 1 − U lies in (0, 1], so the logarithm is finite.
    up, down = (
        np.log1p(-_columns(stream(seed, f"{t}.{side}").random(bars) for t in tickers)) for side in ("high", "low")
    )
    middle, gap = log_open + log_close, (log_close - log_open) ** 2
    high = (middle + np.sqrt(gap - 2.0 * sd**2 * up)) / 2.0
    low = (middle - np.sqrt(gap - 2.0 * sd**2 * down)) / 2.0
    # The formula keeps these bounds; rounding in the last digit need not.
    return np.maximum(high, np.maximum(log_open, log_close)), np.minimum(low, np.minimum(log_open, log_close))


def _volume(
    seed: int, tickers: tuple[str, ...], returns: Float, sd: Float, usual_sd: Float, turnover: Float, timeframe_s: int
) -> Float:
    """(T, N) quote currency traded: more in volatile bars and in bars that move much for their volatility."""
    noise = _columns(
        _autoregression(seed, f"{t}.volume", len(returns), VOLUME_NOISE_HALF_LIFE_S, VOLUME_NOISE_VARIANCE, timeframe_s)
        for t in tickers
    )
    surprise = np.abs(returns) / sd
    return turnover * np.exp(0.95 * np.log(sd / usual_sd) + 0.33 * np.log(surprise + 0.15) + noise)


class SimulatedSource:
    """The whole simulated history at once, generated on first use; every call answers from memory."""

    def __init__(
        self, *, world: World, seed: int, bars: int, tickers: tuple[str, ...], timeframe_s: int, start_s: int,
        oracle_sharpe: float,
    ) -> None:  # fmt: skip
        _require(world, bars, tickers, timeframe_s, start_s)
        self.name = f"simulated:{world}:v{GENERATOR_VERSION}:seed{seed}"
        self._world: World = world
        self._seed, self._n_bars, self._tickers = seed, bars, tickers
        self._timeframe_s, self._start_s, self._oracle_sharpe = timeframe_s, start_s, oracle_sharpe
        self._all: Bars | None = None

    def bars(self, *, after_s: int, until_s: int) -> Bars:
        if self._all is None:
            self._all = simulate(
                world=self._world, seed=self._seed, bars=self._n_bars, tickers=self._tickers,
                timeframe_s=self._timeframe_s, start_s=self._start_s, oracle_sharpe=self._oracle_sharpe,
            )  # fmt: skip
        return self._all.between(after_s, until_s)

    def first_close_s(self) -> int:
        return self._start_s + self._timeframe_s

    def clock_offset_s(self) -> float | None:
        return None

    def venue_rules(self) -> VenueRules:
        return VenueRules.uniform("simulated", self._tickers)

    def last_close_s(self) -> int:
        return self._start_s + self._n_bars * self._timeframe_s
