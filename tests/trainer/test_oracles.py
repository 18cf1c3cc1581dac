"""Independent implementations as oracles on random inputs; `pip install cappuccino[oracles]` brings them."""

import numpy as np
import pytest
from scipy import stats as scipy_stats
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from trainer import overfitting, resampling, sharpe
from trainer.replicates import interquartile_mean, probability_of_improvement, signed_rank

REASON = "an oracle, installed by the extra `oracles`"
SEEDS = range(5)


def _returns(seed: int, *, n: int = 400, k: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(5, (n, k)) * 0.01


@pytest.mark.parametrize("seed", SEEDS)
def test_purgedcv_has_the_same_overfitting_probability(seed: int) -> None:
    purgedcv = pytest.importorskip("purgedcv", reason=REASON)
    returns = _returns(seed)
    theirs = purgedcv.probability_of_backtest_overfitting(returns.T, n_splits=8)
    ours = overfitting.cscv(returns, n_blocks=8)
    assert ours.pbo == pytest.approx(theirs.pbo, abs=1e-12)
    assert ours.slope == pytest.approx(theirs.slope, abs=1e-9)
    assert np.sort(ours.logits) == pytest.approx(np.sort(theirs.logits), abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_purgedcv_has_the_same_probabilities_but_for_the_bias_of_its_moments(seed: int) -> None:
    purgedcv = pytest.importorskip("purgedcv", reason=REASON)
    returns = _returns(seed)[:, 0] + 0.0005
    skew, kurtosis = sharpe.moments(returns)
    known = {"n": len(returns), "skew": skew, "kurtosis": kurtosis}
    ours = sharpe.probabilistic_sharpe(sharpe.sharpe(returns), benchmark=0.0, **known)
    assert ours == pytest.approx(purgedcv.probabilistic_sharpe_ratio(returns, 0.0), abs=1e-3)
    dsr, _ = sharpe.deflated_sharpe(sharpe.sharpe(returns), n_trials=40, trial_variance=0.0004, **known)
    assert dsr == pytest.approx(purgedcv.deflated_sharpe_ratio(returns, 40, 0.0004), abs=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_purgedcv_counts_the_same_effective_trials_and_years(seed: int) -> None:
    purgedcv = pytest.importorskip("purgedcv", reason=REASON)
    rng = np.random.default_rng(seed)
    scores = scipy_stats.zscore(rng.normal(size=120) + 0.3 * rng.normal(size=120).cumsum())
    assert overfitting.effective_trials(scores) == pytest.approx(purgedcv.effective_n_trials(scores), abs=0.5)
    for n in (2, 7, 300):
        assert sharpe.min_backtest_length_years(n) == pytest.approx(purgedcv.minimum_backtest_length(n), rel=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_skfolio_has_the_same_sharpe_probabilities(seed: int) -> None:
    measures = pytest.importorskip("skfolio.measures", reason=REASON)
    returns = _returns(seed)[:, 0] + 0.0005
    skew, kurtosis = sharpe.moments(returns)
    ours = sharpe.probabilistic_sharpe(
        sharpe.sharpe(returns), benchmark=0.01, n=len(returns), skew=skew, kurtosis=kurtosis
    )
    assert ours == pytest.approx(measures.probabilistic_sharpe_ratio(returns, 0.01), abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_arch_has_the_same_superior_ability_p_value(seed: int) -> None:
    bootstrap = pytest.importorskip("arch.bootstrap", reason=REASON)
    advantage = _returns(seed, k=8) + np.linspace(-0.002, 0.0008, 8)
    omega = np.sqrt(resampling.long_run_variance(advantage, mean_block=10))
    # arch compares means that are not studentised; after division by our errors the two statistics are one
    theirs = bootstrap.SPA(np.zeros(400), -advantage / omega, block_size=10, reps=2000, seed=seed)
    theirs.compute()
    assert theirs._loss_diff_var == pytest.approx(np.ones(8), rel=1e-9)
    ours = resampling.spa(advantage, mean_block=10, n_resamples=2000, rng=np.random.default_rng(seed))
    assert ours == pytest.approx(theirs.pvalues["consistent"], abs=0.04)  # 2.6 standard errors of 2,000 draws, twice


@pytest.mark.parametrize("seed", SEEDS)
def test_arch_names_the_same_superior_strategies(seed: int) -> None:
    bootstrap = pytest.importorskip("arch.bootstrap", reason=REASON)
    advantage = _returns(seed, k=8)
    advantage[:, [1, 5]] += 0.004
    omega = np.sqrt(resampling.long_run_variance(advantage, mean_block=10))
    theirs = bootstrap.StepM(np.zeros(400), -advantage / omega, size=0.05, block_size=10, reps=1000, seed=seed)
    theirs.compute()
    ours = resampling.step_m(advantage, size=0.05, mean_block=10, n_resamples=1000, rng=np.random.default_rng(seed))
    assert ours == set(theirs.superior_models)


@pytest.mark.parametrize("seed", SEEDS)
def test_arch_has_the_same_model_confidence_set(seed: int) -> None:
    bootstrap = pytest.importorskip("arch.bootstrap", reason=REASON)
    returns = _returns(seed, k=6) + np.array([0.001, 0, 0, 0, -0.004, -0.004])
    theirs = bootstrap.MCS(-returns, size=0.1, reps=2000, block_size=10, method="max", seed=seed)
    theirs.compute()
    ours = resampling.confidence_set(returns, mean_block=10, n_resamples=2000, rng=np.random.default_rng(seed))
    assert ours == pytest.approx(theirs.pvalues["Pvalue"].sort_index().to_numpy(), abs=0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_scipy_has_the_same_clusters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    correlation = overfitting.correlations(
        rng.normal(size=(200, 3)) @ rng.normal(size=(3, 15)) + rng.normal(size=(200, 15))
    )
    distance = squareform(1.0 - correlation, checks=False)
    theirs = fcluster(linkage(distance, method="average"), t=0.5, criterion="distance")
    ours = overfitting.clusters(correlation, at_least=0.5)
    assert np.array_equal(ours[:, None] == ours, theirs[:, None] == theirs)


@pytest.mark.parametrize("seed", SEEDS)
def test_scipy_has_the_same_ranks_and_trimmed_means(seed: int) -> None:
    rng = np.random.default_rng(seed)
    differences = rng.normal(0.3, 1.0, 12)
    ours = signed_rank(differences)
    for alternative, p in (("less", ours.p_less), ("greater", ours.p_greater), ("two-sided", ours.p_two_sided)):
        assert p == pytest.approx(scipy_stats.wilcoxon(differences, alternative=alternative, method="exact").pvalue)
    assert interquartile_mean(differences) == pytest.approx(scipy_stats.trim_mean(differences, 0.25))
    a, b = rng.normal(size=(7, 1)), rng.normal(size=(9, 1))
    pairs = scipy_stats.mannwhitneyu(a[:, 0], b[:, 0]).statistic / 63
    assert probability_of_improvement(a, b) == pytest.approx(pairs)
