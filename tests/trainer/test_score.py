"""What one run was worth, number by number, and in which market."""

import numpy as np
import pytest

from features.errors import DataError
from trainer.evaluate import Run
from trainer.regimes import log_wealth_by_regime, regimes
from trainer.score import score, table

HOUR_S = 3600


def _run(returns: list[float]) -> Run:
    change = np.array(returns)
    return Run(
        name="r", returns=change, equity=1000 * np.concatenate([[1.0], np.cumprod(1 + change)]),
        cash_weight=np.zeros(len(change)), turnover=1.0, fees=0.0, n_fills=1,
    )  # fmt: skip


def test_losses_alone_make_the_downside_and_the_tail() -> None:
    found = score(_run([0.10, -0.05] * 20), timeframe_s=HOUR_S)  # 40 bars: the worst two are -5 %
    assert found.cvar_5pct == pytest.approx(-0.05)
    assert found.max_drawdown == pytest.approx(0.05)
    # mean 0.025 over sqrt(0.05² / 2), by sqrt(8760)
    assert found.annual_sortino == pytest.approx(0.025 / np.sqrt(0.05**2 / 2) * np.sqrt(8760))
    assert found.calmar == pytest.approx(np.expm1(20 * np.log(1.10 * 0.95) * 8760 / 40) / 0.05)


def test_cash_scores_zero_in_every_ratio() -> None:
    found = score(_run([0.0] * 50), timeframe_s=HOUR_S)
    assert (found.annual_sharpe, found.annual_sortino, found.calmar, found.cvar_5pct) == (0.0, 0.0, 0.0, 0.0)


def test_a_good_hour_of_minutes_has_a_score_though_no_float_holds_it_compounded_for_a_year() -> None:
    found = score(_run([0.01, -0.002] * 30), timeframe_s=60)  # 0.24 in an hour: e^2096 in a year
    assert found.calmar > 1e200 and np.isfinite(found.calmar)


def test_a_losing_account_scores_negative_everywhere() -> None:
    found = score(_run([-0.01, 0.004] * 200), timeframe_s=HOUR_S)
    assert max(found.log_wealth, found.annual_sharpe, found.annual_sortino, found.calmar, found.cvar_5pct) < 0.0
    with pytest.raises(DataError, match="not a percentage"):
        f"{found.annual_sharpe:.1%}"
    assert "Sortino" in table([found], title="t")


def test_a_regime_is_known_from_the_past_alone() -> None:
    close = 100 * np.exp(np.random.default_rng(1).normal(0, 0.01, (900, 3)).cumsum(axis=0))
    later = close.copy()
    later[600:] *= np.random.default_rng(2).uniform(0.5, 2.0, (300, 1))
    assert np.array_equal(regimes(close, trailing_bars=100)[:600], regimes(later, trailing_bars=100)[:600])


def test_rising_falling_and_level_markets_are_told_apart_and_their_wealth_adds_up() -> None:
    rng = np.random.default_rng(3)
    drift = np.repeat([0.004, -0.004], 400)
    close = 100 * np.exp((drift + rng.normal(0, 0.004, 800)).cumsum())[:, None]
    known = regimes(close, trailing_bars=100)
    assert (known[150:400] == "bull").all()
    assert (known[550:] == "bear").all()
    walk = regimes(np.exp(rng.normal(0, 0.01, (20_000, 1)).cumsum(axis=0)), trailing_bars=50)[50:]
    assert [(walk == r).mean() for r in ("bull", "bear", "chop")] == pytest.approx([0.31, 0.31, 0.38], abs=0.06)
    returns = rng.normal(0, 0.01, 700)
    shares = log_wealth_by_regime(returns, known[100:])
    assert sum(n for n, _ in shares.values()) == 700
    assert sum(w for _, w in shares.values()) == pytest.approx(np.log1p(returns).sum())
    untold = log_wealth_by_regime(returns, known[60:760])  # of forty bars no month had gone by
    assert sum(n for n, _ in untold.values()) == 660
    with pytest.raises(DataError, match="700 returns against 699"):
        log_wealth_by_regime(returns, known[101:])
