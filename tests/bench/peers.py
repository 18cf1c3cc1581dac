"""Other people's way of writing the environment, for benchmarks: one account, plain numpy, a loop over the coins."""

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from features.observation import SINCE_TRADE_CAP_BARS
from trainer.env import F32, action_space, observation_space
from trainer.vector_env import COST_SPREAD, RUIN, Problem


class FinRlStyleEnv(gymnasium.Env[F32, F32]):
    """Our mechanics as FinRL_Crypto writes an environment: arrays made beforehand, coin after coin sold, then bought.

    The state vector is put together anew at every step. test_trainer_bench holds it to the batched environment.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  as the base class declares it

    def __init__(self, problem: Problem) -> None:
        self.observation_space: Box = observation_space(problem)  # type: ignore[assignment]
        self.action_space: Box = action_space(problem)  # type: ignore[assignment]
        n = self._n = problem.layout.n_assets
        bars = problem.market.bars.numpy()
        self._tech = problem.market.market.numpy()
        self._close, self._open, self._volume = (bars[:, k * n : (k + 1) * n] for k in range(3))
        self._tradable, self._benchmark = bars[:, 3 * n : 4 * n] > 0, bars[:, -1]
        self._problem, self._lot, self._least = problem, problem.lot.tolist(), problem.min_notional.tolist()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[F32, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        p = self._problem
        length = int(self.np_random.integers(p.min_episode_bars, p.max_episode_bars + 1))
        self.bar = int(self.np_random.integers(0, len(self._close) - length))
        self.end = self.bar + length
        self.fee, self.impact = (
            rate * self.np_random.uniform(*COST_SPREAD) for rate in (p.costs.fee, p.costs.price_impact)
        )
        self.cash, self.quantity = p.initial_cash, np.zeros(self._n)
        self.peak, self.since = p.initial_cash, 0.0
        return self._state(), {}

    def step(self, action: F32) -> tuple[F32, float, bool, bool, dict[str, Any]]:
        before = self.cash + float((self.quantity * self._close[self.bar]).sum())
        target = self._target(np.asarray(action, dtype=np.float64), self.quantity * self._close[self.bar] / before)
        delta = self._plan(target, before)
        self.bar += 1
        traded = self._sell(delta)
        traded += self._buy(delta)
        after = self.cash + float((self.quantity * self._close[self.bar]).sum())
        self.peak, self.since = max(self.peak, after), 1.0 if traded > 0 else self.since + 1
        reward = math.log(after / before) - float(self._benchmark[self.bar])
        ruined = after < RUIN * self._problem.initial_cash
        return self._state(), reward, ruined, not ruined and self.bar >= self.end, {}

    def _target(self, raw: NDArray[np.float64], held: NDArray[np.float64]) -> NDArray[np.float64]:
        limits = self._problem.limits
        exps = np.exp(raw[:-1] - raw[:-1].max())
        gap = (exps / exps.sum())[:-1] - held
        moved = held + np.where(np.abs(gap) >= limits.no_trade_band, gap / (1.0 + math.exp(-raw[-1])), 0.0)
        capped = np.clip(moved, 0.0, limits.max_weight)
        room = 1.0 - limits.min_cash_reserve
        return capped * (room / max(capped.sum(), room))

    def _plan(self, target: NDArray[np.float64], equity: float) -> list[float]:
        delta, close = [], self._close[self.bar]
        for i in range(self._n):
            wanted = (target[i] * equity - self.quantity[i] * close[i]) / close[i]
            whole = self._lots(max(wanted, -self.quantity[i]), i)
            delta.append(whole if abs(whole) * close[i] >= self._least[i] else 0.0)
        return delta

    def _lots(self, quantity: float, i: int) -> float:
        lot = self._lot[i]
        if lot == 0:
            return quantity
        return math.copysign(math.floor(abs(quantity) / lot + 1e-9) * lot, quantity)

    def _fillable(self, delta: float, i: int) -> float:
        if not self._tradable[self.bar, i]:
            return 0.0
        share = self._problem.costs.max_volume_share
        if share == 0.0:
            return delta
        ceiling = share * self._volume[self.bar, i]
        return self._lots(min(max(delta, -ceiling), ceiling), i)

    def _sell(self, delta: list[float]) -> float:
        traded = 0.0
        for i in range(self._n):
            if delta[i] < 0 and (sold := -self._fillable(delta[i], i)) > 0:
                received = sold * self._open[self.bar, i] * (1.0 - self.impact)
                self.cash += received * (1.0 - self.fee)
                self.quantity[i] -= sold
                traded += received
        return traded

    def _buy(self, delta: list[float]) -> float:
        bought = [self._fillable(d, i) if d > 0 else 0.0 for i, d in enumerate(delta)]
        price = self._open[self.bar] * (1.0 + self.impact)
        in_coin = self._problem.costs.fee_in == "received"
        need = sum(b * p for b, p in zip(bought, price, strict=True)) * (1.0 if in_coin else 1.0 + self.fee)
        have = self.cash * (1.0 - 8.0 * (self._n + 1) * 2.0**-52)
        if need > have:
            bought = [self._lots(b * have / need, i) for i, b in enumerate(bought)]
        traded = 0.0
        for i, b in enumerate(bought):
            if b > 0:
                self.cash -= b * price[i] * (1.0 if in_coin else 1.0 + self.fee)
                self.quantity[i] += b * (1.0 - self.fee if in_coin else 1.0)
                traded += b * price[i]
        return traded

    def _state(self) -> F32:
        value = self.quantity * self._close[self.bar]
        equity = self.cash + value.sum()
        since = math.log1p(min(self.since, SINCE_TRADE_CAP_BARS)) / math.log1p(SINCE_TRADE_CAP_BARS)
        account = [self.cash / equity, 1.0 - equity / max(self.peak, equity), since]
        return np.hstack([self._tech[self.bar], value / equity, account]).astype(np.float32)
