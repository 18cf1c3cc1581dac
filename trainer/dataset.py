"""From configuration to data: one market, its features, and who may read which part of it."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from structlog.typing import FilteringBoundLogger

from daemon.child.clock import Clock
from daemon.child.config import Config
from daemon.child.market import Waiting, bar_source, costs, feature_spec, limits, store_venue_rules, venue_rules
from features.bars import Bars, epoch_s
from features.errors import ConfigurationError
from features.files import held, read_json, write_atomic
from features.observation import market_block
from features.pipeline import FeatureRows, compute
from features.scaling import Scaler
from features.sources.errors import MarketUnavailable
from features.sources.stored import Pin, StoredSource
from features.spec import FeatureSpec
from trainer.evaluate import Arena
from trainer.holdout import HoldoutToken
from trainer.splits import CombinatorialSplit, Fold, Roles, cpcv, roles, walk_forward

RETRY_S = 15.0  # where the market names no time
CROSS_GROUPS, CROSS_TESTS = 6, 2  # 15 splits that join into 5 paths


class Dataset:
    """Bars up to the end of development, their features and folds; the hold-out only against a ledgered token."""

    def __init__(self, *, everything: Bars, spec: FeatureSpec, config: Config, source_name: str) -> None:
        self.spec = spec
        self.source_name = source_name
        data = config.data
        self.roles: Roles = roles(
            everything,
            train_start_s=epoch_s(data.train_start_utc) if data.train_start_utc else None,
            judge_start_s=epoch_s(data.judge_start_utc) if data.judge_start_utc else None,
            end_s=epoch_s(data.end_utc) if data.end_utc else None,
            holdout_share=data.holdout_share,
            gap_bars=max(data.embargo_bars, spec.lookback_bars + 1),
            warmup_bars=spec.warmup_bars + spec.stack_bars - 1,
        )
        self.folds: tuple[Fold, ...] = walk_forward(
            self.roles, n_folds=data.n_folds, gap_bars=max(data.embargo_bars, spec.lookback_bars + 1)
        )
        self._everything, self._embargo_bars = everything, data.embargo_bars
        self.bars = everything.slice(0, self.roles.development.stop)
        self.data_sha256 = self.bars.sha256()

    @cached_property
    def rows(self) -> FeatureRows:
        """Feature rows of the development bars; row r belongs to bar r + spec.warmup_bars."""
        return compute(self.bars, self.spec)

    @property
    def holdout_closes_s(self) -> tuple[int, int]:
        """The first and the last bar's; times alone, which need no token."""
        closes, bars = self._everything.close_time_s, self.roles.holdout
        return int(closes[bars.start]), int(closes[bars.stop - 1])

    def with_holdout(self, token: HoldoutToken) -> tuple[Bars, range]:
        """All bars to the end of the hold-out and the hold-out's range; `token` proves that the ledger knows."""
        token.require_open()
        return self._everything.slice(0, self.roles.holdout.stop), self.roles.holdout

    def fit_scaler(self, train: range) -> Scaler:
        first = max(train.start, self.spec.warmup_bars) - self.spec.warmup_bars
        return Scaler.fit(self.rows.slice(first, train.stop - self.spec.warmup_bars), self.spec)

    def blocks(self, scaler: Scaler, bars: range) -> tuple[NDArray[np.float32], Bars]:
        """Market blocks (len(bars), market_size) and the bars they describe."""
        stack, warmup = self.spec.stack_bars, self.spec.warmup_bars
        scaled = scaler.transform(self.rows.slice(bars.start - warmup - stack + 1, bars.stop - warmup))
        return market_block(scaled.asset, scaled.shared, stack), self.bars.slice(bars.start, bars.stop)

    @cached_property
    def cross_validation(self) -> tuple[CombinatorialSplit, ...]:
        """Combinatorial splits of development; ConfigurationError when it is too short for them."""
        return cpcv(
            self.roles.development, n_groups=CROSS_GROUPS, n_test=CROSS_TESTS,
            purge_bars=self.spec.lookback_bars + self.spec.stack_bars, embargo_bars=self._embargo_bars,
        )  # fmt: skip

    def joined(self, train: Sequence[range]) -> tuple[Scaler, list[tuple[NDArray[np.float32], Bars]]]:
        """A scaler fitted on all of `train`, and market blocks and bars of each range.

        Features are computed for each range by itself, warmed on the bars just before it: an average that never quite
        forgets would carry a test's bars across the margin.
        """
        stack, warmup = self.spec.stack_bars, self.spec.warmup_bars
        firsts = [max(0, r.start - warmup - stack + 1) for r in train]
        rows = [compute(self.bars.slice(first, r.stop), self.spec) for first, r in zip(firsts, train, strict=True)]
        within = [p.slice(max(0, p.n_rows - len(r)), p.n_rows) for p, r in zip(rows, train, strict=True)]
        scaler = Scaler.fit(_together(within), self.spec)
        parts = []
        for part, r in zip(rows, train, strict=True):
            scaled = scaler.transform(part)
            blocks = market_block(scaled.asset, scaled.shared, stack)
            parts.append((blocks, self.bars.slice(r.stop - len(blocks), r.stop)))
        return scaler, parts


def _together(rows: Sequence[FeatureRows]) -> FeatureRows:
    parts = ((r.close_time_s, r.asset, r.shared) for r in rows)
    close_time_s, asset, shared = (np.concatenate(part) for part in zip(*parts, strict=True))
    return FeatureRows(close_time_s=close_time_s, asset=asset, shared=shared)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """The settings beside the data that make two scores comparable."""

    account: dict[str, object]
    costs: dict[str, object]
    allocation: dict[str, object]
    data: dict[str, object]
    policy: str
    ranges: tuple[str, ...]
    seeds: int
    train_steps: int
    screen_share: float
    accounts: int


def settings_text(config: Config) -> str:
    """Canonical text of everything in the configuration that a score depends on."""
    record = _Settings(
        account=asdict(config.account), costs=asdict(config.costs), allocation=asdict(config.allocation),
        data=asdict(config.data), policy=config.study.policy, ranges=config.study.ranges, seeds=config.study.seeds,
        train_steps=config.study.train_steps, screen_share=config.study.screen_share, accounts=config.study.accounts,
    )  # fmt: skip
    return json.dumps(asdict(record), sort_keys=True, separators=(",", ":"))


def awaited_dataset(
    config: Config, state_dir: Path, clock: Clock, *, log: FilteringBoundLogger, tell: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> Dataset | None:  # fmt: skip
    """`load_dataset` as soon as the market gives what it needs; None when a stop is asked for first.

    tell: shows that the worker is alive and what it waits for. To end instead would count as a crash, and a worker that
    crashes more than a few times is given up.
    """
    silent = Waiting(clock=clock, beat=lambda: tell("the market does not answer"), should_stop=should_stop)
    while not should_stop():
        try:
            return load_dataset(config, state_dir, clock, beat=lambda: tell("loading data"), should_stop=should_stop)
        except MarketUnavailable as error:
            if should_stop():
                break
            log.warning("trainer.market_unavailable", error=str(error), retry_after_s=error.retry_after_s)
            with suppress(MarketUnavailable):  # a stop was asked for
                silent.sleep(error.retry_after_s or RETRY_S)
    return None


def load_dataset(
    config: Config, state_dir: Path, clock: Clock, *, beat: Callable[[], None] = lambda: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Dataset:  # fmt: skip
    """All bars of the configured source with their roles; ConfigurationError when there are too few."""
    spec = feature_spec(config)
    waiting = Waiting(clock=clock, beat=beat, should_stop=should_stop)
    source = bar_source(config, state_dir, waiting)
    store_venue_rules(config, source, state_dir, waiting)
    bars = (
        _pinned(config, source, state_dir, waiting)
        if isinstance(source, StoredSource)
        else source.bars(after_s=source.first_close_s() - spec.timeframe_s, until_s=source.last_close_s())
    )
    if bars.n_bars < 4 * spec.warmup_bars:
        raise ConfigurationError(
            f"{bars.n_bars} bars from {source.name}, at least {4 * spec.warmup_bars} are needed to train and judge",
            hint="raise simulation.bars or market.history_bars, or give a longer file",
        )
    return Dataset(everything=bars, spec=spec, config=config, source_name=source.name)


def _pinned(config: Config, source: StoredSource, state_dir: Path, waiting: Waiting) -> Bars:
    """The bars there were when the study began: all its workers, and their restarts, read the same ones.

    The store goes on growing and its venue may revise it; a study whose bars cannot be had again is refused.
    """
    path = state_dir / "trials" / config.study.name / "data.json"
    with held(state_dir / "run" / "data.lock", pause=waiting.pause):
        if not path.exists():
            write_atomic(path, json.dumps(source.pin().to_dict(), indent=1).encode())
    return source.pinned(Pin.from_dict(read_json(path)))


def arena(config: Config, state_dir: Path) -> Arena:
    """The account, costs, limits and venue rules of the configuration."""
    return Arena(
        initial_cash=config.account.initial_cash, costs=costs(config), limits=limits(config),
        rules=venue_rules(config, state_dir),
    )  # fmt: skip


def require_room_for_an_order(where: Arena, tickers: Sequence[str]) -> None:
    """ConfigurationError when the largest order of the opening account is below the venue's smallest for every ticker.

    Such an account never trades, and every trial and baseline would score the same zero.
    """
    _, least = where.rules.arrays(tickers)
    largest = where.initial_cash * min(where.limits.max_weight, 1.0 - where.limits.min_cash_reserve)
    if largest < least.min():
        raise ConfigurationError(
            f"an account of {where.initial_cash:g} never trades: it orders {largest:g} at most, and the smallest order that "
            f"{where.rules.venue} takes is {least.min():g}",
            hint="raise account.initial_cash, which is in units of market.quote",
        )
