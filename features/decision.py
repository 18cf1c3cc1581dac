"""From a bar to a target: the one function that training's evaluation, paper trading and its proof all call."""

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.allocation import target_weights
from features.artifact import PolicyArtifact
from features.errors import DataError
from features.ledger import Ledger, observed
from features.observation import market_block
from features.pipeline import FeatureRows


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was seen and wanted at one close. observation: float32 bytes; target: (N,) asset weights, the rest is cash.

    raw: the actor's output; of an ensemble its members' outputs in a row.
    """

    close_time_s: int
    observation: bytes
    raw: tuple[float, ...]
    target: tuple[float, ...]

    @property
    def observation_sha256(self) -> str:
        return hashlib.sha256(self.observation).hexdigest()


def market_blocks(artifact: PolicyArtifact, rows: FeatureRows) -> NDArray[np.float32]:
    """(R - stack_bars + 1, market_size): the market half of the observation of every row."""
    scaled = artifact.scaler.transform(rows)
    return market_block(scaled.asset, scaled.shared, artifact.spec.stack_bars)


class Decider:
    """A policy ready to decide; holds its actors and nothing that changes."""

    def __init__(self, artifact: PolicyArtifact) -> None:
        self._actors = tuple((policy.actor(), policy.limits) for policy in artifact.policies)

    def decide(
        self, *, market: NDArray[np.float32], ledger: Ledger, close: NDArray[np.float64], close_time_s: int
    ) -> Decision:
        """market: (market_size,) float32; close: (N,) of the bar just closed. NaN raises DataError."""
        return self.decide_each(market=market, ledgers=(ledger,), close=close, close_time_s=close_time_s)[0]

    def decide_each(
        self, *, market: NDArray[np.float32], ledgers: Sequence[Ledger], close: NDArray[np.float64], close_time_s: int
    ) -> tuple[Decision, ...]:
        """`decide` for each of several accounts on one bar, bit for bit, at little more than the price of one."""
        shown = np.broadcast_to(market, (len(ledgers), len(market)))
        observation = np.concatenate([shown, observed(ledgers, close)], axis=1)
        held = np.array([each.weights(close) for each in ledgers])
        with np.errstate(
            invalid="ignore"
        ):  # BLAS may add up what lies beside a matrix; what is not finite is refused below
            raws = [actor.act(observation) for actor, _ in self._actors]
        targets = [target_weights(raw, held, limits) for raw, (_, limits) in zip(raws, self._actors, strict=True)]
        raw, target = np.concatenate(raws, axis=1), np.mean(targets, axis=0)
        if not (np.isfinite(raw).all() and np.isfinite(target).all()):
            raise DataError(f"the policy's output at {close_time_s} is not finite", hint="retrain; do not trade it")
        return tuple(
            Decision(
                close_time_s=close_time_s, observation=o.tobytes(), raw=tuple(r.tolist()), target=tuple(t.tolist())
            )
            for o, r, t in zip(observation, raw, target, strict=True)
        )


class MarketWindow:
    """The last `stack_bars` scaled rows of a stream, laid out as `market_blocks` lays out history."""

    def __init__(self, artifact: PolicyArtifact) -> None:
        self._artifact = artifact
        self._rows: deque[FeatureRows] = deque(maxlen=artifact.spec.stack_bars)

    def push(self, row: FeatureRows) -> NDArray[np.float32] | None:
        """The market block after `row`, or None while fewer than `stack_bars` rows were pushed."""
        self._rows.append(row)
        if len(self._rows) < self._artifact.spec.stack_bars:
            return None
        rows = FeatureRows(
            close_time_s=np.concatenate([r.close_time_s for r in self._rows]),
            asset=np.concatenate([r.asset for r in self._rows]),
            shared=np.concatenate([r.shared for r in self._rows]),
        )
        block: NDArray[np.float32] = market_blocks(self._artifact, rows)[0]
        return block
