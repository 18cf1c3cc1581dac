"""What one run was worth, number by number, and in which market."""

from dataclasses import replace

import numpy as np
import pytest

from features.errors import DataError
from trainer.evaluate import Run
from trainer.regimes import log_wealth_by_regime, regimes
from trainer.score import excess_t, score, table
from trainer.sharpe import sharpe_se

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


def test_every_number_of_a_score_by_hand() -> None:
    """Hours: +10 %, -20 %, +25 %, 0 %. Equity 1000, 1100, 880, 1100, 1100."""
    change = np.array([0.10, -0.20, 0.25, 0.0])
    run = replace(_run(change.tolist()), turnover=3.0, fees=0.02, cash_weight=np.array([1.0, 0.96, 0.96, 0.94]))
    found = score(run, timeframe_s=HOUR_S)
    mean, deviation = 0.0375, np.sqrt((0.0625**2 + 0.2375**2 + 0.2125**2 + 0.0375**2) / 3)
    assert (found.n_bars, found.fees, found.time_in_cash) == (4, 0.02, 0.75)
    assert found.total_return == pytest.approx(0.10)
    assert found.log_wealth == pytest.approx(np.log(1.1))
    assert found.max_drawdown == pytest.approx(0.2)  # 880 of 1100
    assert found.turnover_per_year == pytest.approx(3.0 * 8760 / 4)
    assert found.annual_sharpe == pytest.approx(mean / deviation * np.sqrt(8760))
    assert found.annual_sharpe_se == pytest.approx(sharpe_se(change) * np.sqrt(8760))
    shown = table([found], title="t").splitlines()[-1].split()
    assert shown[:4] == ["r", "10.0", "0.095", f"{found.annual_sharpe:.2f}"]
    assert shown[-5:] == ["20.0", "-20.00", "6570.0", "2.00", "75"]


def test_the_tail_is_a_twentieth_of_the_bars_and_one_more_where_that_is_no_whole_number() -> None:
    returns = [-0.04, -0.03, -0.02, *[0.001] * 37]
    assert score(_run(returns), timeframe_s=HOUR_S).cvar_5pct == pytest.approx(-0.035)  # two of forty
    assert score(_run([*returns, 0.001]), timeframe_s=HOUR_S).cvar_5pct == pytest.approx(-0.03)  # three of forty-one


@pytest.mark.parametrize("broken", [[0.1], [0.1, float("nan"), 0.2], [0.1, float("inf")]])
def test_a_broken_run_has_no_score(broken: list[float]) -> None:
    with pytest.raises(DataError, match="not finite"):
        score(_run(broken), timeframe_s=HOUR_S)


def test_the_best_log_wealth_stands_first_in_the_table() -> None:
    runs = [replace(_run([x, 0.0]), name=name) for name, x in (("poor", -0.1), ("good", 0.2), ("fair", 0.1))]
    lines = table([score(r, timeframe_s=HOUR_S) for r in runs], title="t").splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["good", "fair", "poor"]


def test_the_objective_is_the_t_value_of_the_log_return_beyond_the_baseline() -> None:
    """Excess log returns of 3, 1, 1, 3 hundredths: mean 2, deviation 1 (biased), so t = 2 / 1 · √3."""
    baseline = np.array([0.10, -0.20, 0.25, 0.0])
    policy = np.expm1(np.log1p(baseline) + np.array([0.03, 0.01, 0.01, 0.03]))
    assert excess_t(policy, baseline) == pytest.approx(2 * np.sqrt(3))
    assert excess_t(baseline, policy) == pytest.approx(-2 * np.sqrt(3))
    assert excess_t(baseline, baseline) == 0.0
    with pytest.raises(DataError, match="4 policy returns against 3"):
        excess_t(policy, baseline[:3])
    with pytest.raises(DataError, match="not finite"), np.errstate(divide="ignore"):
        excess_t(np.array([0.1, -1.0, 0.1, 0.1]), baseline)
