"""A whole study whose trials cost tenths of a second: a linear policy by ridge regression instead of PPO.

Everything that judges is the product's: ledger, returns on record, replicates on fresh seeds, exact accounts, gates,
hold-out. What is cheap is a trial's training, and its score: a vectorised account without lots, over cash. Over 1/N, as the
product's studies score, the best of a market that loses to cash is certain to beat that market, and loses to cash as well.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from daemon.child.clock import SystemClock
from daemon.child.config import Config
from features.actor import weight_shapes
from features.allocation import Limits, target_weights
from features.artifact import PolicyArtifact
from features.bars import Bars
from features.files import write_atomic
from features.observation import Layout
from trainer.dataset import Dataset, arena
from trainer.judgement import Judgement
from trainer.ledger import TrialLedger
from trainer.promote import Judge
from trainer.score import SECONDS_PER_YEAR, excess_t
from trainer.sharpe import sharpe
from trainer.splits import Fold, Split
from trainer.study import trial_dir

Float = NDArray[np.float64]
HORIZONS = (1, 6, 24, 72)  # bars
BLOCK_BARS = 180  # a month: what a seed draws half of
TOGETHER = 30  # trials asked for and scored at a time
LINEAR = 0.05  # tanh is a straight line to this height


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A linear score per asset, less the mean over assets; tilt: logits per standard deviation of it."""

    slope: Float
    tilt: float
    cash: float
    speed: float

    def logits(self, asset: Float) -> Float:
        """(T, N + 2) raw output for scaled features (T, N, F)."""
        seen = asset @ self.slope
        scores = self.tilt * (seen - seen.mean(axis=1, keepdims=True))
        constant = np.tile([self.cash, self.speed], (len(asset), 1))
        return np.concatenate([scores, constant], axis=1)

    def weights(self, layout: Layout) -> dict[str, NDArray[np.float32]]:
        """The same as a `per_asset` network of width 1, as far as tanh is linear."""
        w = {n: np.zeros(s, np.float32) for n, s in weight_shapes("per_asset", layout, 1).items()}
        gain = LINEAR / 5.0 / max(float(np.abs(self.slope).sum()), 1e-12)  # features are clipped at 5
        w["asset_encoder.weight"][0, : len(self.slope)] = gain * self.slope
        w["market_encoder.weight"][0] = (1.0, -1.0)
        w["asset_head.weight"][0, 0] = 1.0
        w["asset_logit.weight"][0, 0] = self.tilt / gain
        w["cash_out.bias"][:] = (self.cash, self.speed)
        return w


class CheapStudy:
    """One study in its own state directory."""

    def __init__(self, *, config: Config, state_dir: Path, dataset: Dataset) -> None:
        self.config, self.state_dir, self.dataset = config, state_dir, dataset
        self.arena = arena(config, state_dir)
        self._cost = self.arena.costs.fee + self.arena.costs.price_impact
        self._moments = {f.train.stop: _Moments(dataset, f) for f in dataset.folds}

    def run(self, n_trials: int) -> Judgement:
        self._search(n_trials)
        judge = Judge(
            config=self.config, state_dir=self.state_dir, dataset=self.dataset, clock=SystemClock(),
            beat=lambda _: None, train=self.train,
        )  # fmt: skip
        judgement = judge.judge()
        assert judgement is not None
        return judgement

    def oracle_sharpe(self, bars: Bars, raw: Float) -> float:
        """Annual, over cash and after costs, from the first judging bar to the end. raw: (T, N + 2) for all of `bars`."""
        first = self.dataset.roles.judge_start
        returns = account(raw[first:, None], bars.close[first:], self.arena.limits, self._cost)[:, 0]
        return float(sharpe(returns) * np.sqrt(SECONDS_PER_YEAR / bars.timeframe_s))

    def train(self, parameters: Mapping[str, Any], fold: Split, *, seed: int, note: str) -> PolicyArtifact:
        """What the judge calls for a replicate."""
        assert isinstance(fold, Fold)  # nothing is cross-validated here
        fitted, spec = self._fit(parameters, fold, seed), self.dataset.spec
        return PolicyArtifact(
            kind="per_asset", width=1, spec=spec, scaler=self._moments[fold.train.stop].scaler,
            limits=self.arena.limits, costs=self.arena.costs, venue_rules=self.arena.rules,
            weights=fitted.weights(Layout.of(spec)), training={"note": note, "seed": seed, **parameters},
        )  # fmt: skip

    def _fit(self, parameters: Mapping[str, Any], fold: Fold, seed: int) -> Fitted:
        slope = self._moments[fold.train.stop].slope(parameters["horizon"], parameters["ridge"], seed)
        return Fitted(slope=slope, tilt=parameters["tilt"], cash=parameters["cash"], speed=parameters["speed"])

    def _search(self, n_trials: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = self.config.run.seed
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=seed),
        )
        for _ in range(0, n_trials, TOGETHER):
            asked = [study.ask() for _ in range(TOGETHER)]
            chosen = [_suggest(t) for t in asked]
            returns = np.concatenate([self._validated(chosen, asked, f) for f in self.dataset.folds])
            for i, trial in enumerate(asked):
                score = excess_t(returns[:, i], np.zeros(len(returns)))
                study.tell(trial, score)
                self._record(trial.number, chosen[i], returns[:, i], score)

    def _validated(self, chosen: Sequence[Mapping[str, Any]], asked: Sequence[optuna.Trial], fold: Fold) -> Float:
        """(T, K) returns of the trials on one validation block."""
        moments, v = self._moments[fold.train.stop], fold.validate
        seen = moments.scaled[v.start - self.dataset.spec.warmup_bars : v.stop - self.dataset.spec.warmup_bars]
        raw = [self._fit(c, fold, _searched_seed(t.number)).logits(seen) for c, t in zip(chosen, asked, strict=True)]
        close = self.dataset.bars.close[v.start : v.stop]
        return account(np.stack(raw, axis=1), close, self.arena.limits, self._cost)

    def _record(self, number: int, parameters: Mapping[str, Any], returns: Float, score: float) -> None:
        study, ledger = self.config.study.name, TrialLedger(self.state_dir / "ledger.jsonl")
        folder = trial_dir(self.state_dir, study, number)
        record = {"study": study, "number": number, "state": "COMPLETE", "score": score, "parameters": dict(parameters)}
        write_atomic(folder / "trial.json", json.dumps(record).encode())
        np.savez(folder / "returns.npz", returns=returns)
        ledger.started(
            study=study, number=number, data_sha256=self.dataset.data_sha256, parameters=parameters, at_utc=""
        )
        ledger.ended(
            study=study,
            number=number,
            score=score,
            sharpe=float(sharpe(returns)),
            timeframe_s=self.dataset.spec.timeframe_s,
            failure=None,
        )


class _Moments:
    """Second moments of one training range, month by month."""

    def __init__(self, dataset: Dataset, fold: Fold) -> None:
        self._dataset, self._fold = dataset, fold
        self.scaler = dataset.fit_scaler(fold.train)

    @cached_property
    def scaled(self) -> Float:
        """(R, N, F) of every development row; row r is bar r + warmup."""
        asset: Float = self.scaler.transform(self._dataset.rows).asset.astype(np.float64)
        return asset

    @cached_property
    def _blocks(self) -> tuple[Float, dict[int, Float]]:
        first = self._fold.train.start - self._dataset.spec.warmup_bars
        stop = self._fold.train.stop - self._dataset.spec.warmup_bars
        x = self.scaled[first:stop]
        x = x - x.mean(axis=1, keepdims=True)
        log_close = np.log(self._dataset.bars.close[self._fold.train.start : self._fold.train.stop])
        n = (len(x) - max(HORIZONS)) // BLOCK_BARS
        x = x[: n * BLOCK_BARS]
        blocks = x.reshape(n, -1, x.shape[2])
        gram = np.einsum("brf,brg->bfg", blocks, blocks)
        cross = {}
        for h in HORIZONS:
            ahead = log_close[h : h + len(x)] - log_close[: len(x)]
            ahead = ahead - ahead.mean(axis=1, keepdims=True)
            cross[h] = np.einsum("brf,br->bf", blocks, ahead.reshape(n, -1))
        return gram, cross

    def slope(self, horizon: int, ridge: float, seed: int) -> Float:
        """(F,) per unit of the score's standard deviation over half of the months, drawn by `seed`."""
        gram, cross = self._blocks
        half = np.random.default_rng(seed).permutation(len(gram))[: len(gram) // 2]
        g, c = gram[half].sum(axis=0), cross[horizon][half].sum(axis=0)
        rows = len(half) * BLOCK_BARS * len(self._dataset.spec.tickers)
        found = np.linalg.solve(g + ridge * rows * np.eye(len(g)), c)
        spread = float(np.sqrt(found @ g @ found / rows))
        slope: Float = found / max(spread, 1e-12)
        return slope


def account(raw: Float, close: Float, limits: Limits, cost: float) -> Float:
    """(T - 1, K) returns of K accounts. raw: (T, K, N + 2); close: (T, N); cost: fraction of traded value."""
    grown = close[1:] / close[:-1]
    held = np.zeros((raw.shape[1], close.shape[1]))
    returns = np.empty((len(grown), raw.shape[1]))
    for t, growth in enumerate(grown):
        target = target_weights(raw[t], held, limits)
        paid = cost * np.abs(target - held).sum(axis=1)
        earned = target @ (growth - 1.0)
        returns[t] = (1.0 - paid) * (1.0 + earned) - 1.0
        held = target * growth / (1.0 + earned)[:, None]
    return returns


def _suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "horizon": trial.suggest_categorical("horizon", HORIZONS),
        "ridge": trial.suggest_float("ridge", 1e-3, 1e2, log=True),
        "tilt": trial.suggest_float("tilt", 0.1, 6.0, log=True),
        "cash": trial.suggest_float("cash", -4.0, 2.0),
        "speed": trial.suggest_float("speed", -4.0, 2.0),
    }


def _searched_seed(number: int) -> int:
    return int(np.random.SeedSequence([17, number]).generate_state(1)[0])
