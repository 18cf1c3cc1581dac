"""The configuration as frozen records: every key has a type, unknown keys are errors that name the nearest known one."""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_type_hints

from daemon.child.advisor_config import AdvisorConfig, LlmConfig
from daemon.child.search import narrowed, search_space
from daemon.child.service_config import DaemonConfig, GpuConfig, JanitorConfig, NotifyConfig
from daemon.child.typed import nearest, record_of
from features.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    state_dir: str = ""
    credentials_dir: str = "~/.config/cappuccino/credentials"
    seed: int = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketConfig:
    source: Literal["ccxt", "alpaca", "recorded", "simulated"] = "ccxt"
    exchange: str = "binance"
    quote: str = "USDT"
    api_url: str = ""
    tickers: tuple[str, ...] = ("AAVE", "AVAX", "BTC", "ETH", "LINK", "LTC", "UNI")
    timeframe_s: int = 3600
    recorded_path: str = ""
    grace_s: float = 20.0
    history_bars: int = 17_520


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationConfig:
    world: Literal["planted", "null", "sv", "bootstrap"] = "planted"
    seed: int = 11
    bars: int = 26_000
    start_utc: str = "2021-01-01T00:00:00Z"
    oracle_sharpe: float = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesConfig:
    preset: Literal["stationary", "classic"] = "stationary"
    stack_bars: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CostsConfig:
    fee_bps: float = 25.0
    half_spread_bps: float = 2.0
    slippage_bps: float = 3.0
    fee_in: Literal["quote", "received"] = "received"
    max_volume_share: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationConfig:
    min_cash_reserve: float = 0.02
    max_weight: float = 0.5
    no_trade_band: float = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountConfig:
    initial_cash: float = 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    train_start_utc: str = ""
    judge_start_utc: str = ""
    end_utc: str = ""
    n_folds: int = 3
    holdout_share: float = 0.4
    embargo_bars: int = 168


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    name: str = "default"
    policy: Literal["per_asset", "mlp"] = "per_asset"
    parent: str = ""
    ranges: tuple[str, ...] = ()
    target_trials: int = 200
    seeds: int = 1
    workers: int = 2
    device: Literal["cpu", "cuda"] = "cpu"
    accounts: int = 128
    train_steps: int = 500_000
    screen_share: float = 0.0
    screen_keep: float = 0.5
    sampler_startup_trials: int = 10
    recycle_growth_bytes: int = 500_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionConfig:
    automatic: bool = True
    every_trials: int = 50
    seeds: int = 5
    ensemble_members: int = 3
    cross_validated: int = 5
    cross_seeds: int = 3
    finalists: int = 1
    dsr_threshold: float = 0.95
    max_drawdown: float = 0.5
    without_champion: Literal["cash", "equal_weight"] = "cash"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperConfig:
    broker: Literal["simulated", "alpaca", "ccxt"] = "simulated"
    broker_url: str = ""
    clock: Literal["live", "replay"] = "live"
    replay_start_utc: str = ""
    replay_bars_per_s: float = 0.0
    start_without_champion: bool = True
    cancel_at_failure: bool = True
    stale_after_s: float = 5400.0
    max_clock_offset_s: float = 5.0
    challengers: int = 3
    loss_alarm: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskConfig:
    max_weight: float = 1.0
    min_cash_reserve: float = 0.0
    stop_loss: float = 0.0
    trailing_stop: float = 0.0
    take_profit: float = 0.0
    portfolio_trailing_stop: float = 0.0
    daily_loss: float = 0.2
    max_drawdown: float = 0.35
    min_hold_bars: int = 0
    cooldown_bars: int = 24
    max_orders_per_hour: int = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole of config.toml, one record per section."""

    run: RunConfig = field(default_factory=RunConfig)
    market: MarketConfig = field(default_factory=MarketConfig)
    simulation: SimulationConfig = field(default_factory=SimulationConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    costs: CostsConfig = field(default_factory=CostsConfig)
    allocation: AllocationConfig = field(default_factory=AllocationConfig)
    account: AccountConfig = field(default_factory=AccountConfig)
    data: DataConfig = field(default_factory=DataConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    promotion: PromotionConfig = field(default_factory=PromotionConfig)
    paper: PaperConfig = field(default_factory=PaperConfig)
    risk: RiskConfig = field(default_factory=RiskConfig)
    daemon: DaemonConfig = field(default_factory=DaemonConfig)
    janitor: JanitorConfig = field(default_factory=JanitorConfig)
    gpu: GpuConfig = field(default_factory=GpuConfig)
    advisor: AdvisorConfig = field(default_factory=AdvisorConfig)
    llm: LlmConfig = field(default_factory=LlmConfig)
    notify: NotifyConfig = field(default_factory=NotifyConfig)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)


def load_config(path: Path, overlays: Sequence[Path] = (), overrides: Sequence[str] = ()) -> Config:
    """Read TOML or JSON (by suffix), then overlays of the same form, then `section.key=value` overrides."""
    merged: dict[str, dict[str, Any]] = {}
    for source in (path, *overlays):
        for section, values in _read(source).items():
            if not isinstance(values, Mapping):
                raise ConfigurationError(f"{source}: {section} is not a section", hint="keys belong under a [section]")
            merged.setdefault(section, {}).update(values)
    for override in overrides:
        section, key, value = _split(override)
        merged.setdefault(section, {})[key] = value
    return parse(merged)


def parse(record: Mapping[str, Mapping[str, Any]]) -> Config:
    """Build and check the records; ConfigurationError names the first key that is wrong."""
    known = {f.name: f for f in fields(Config)}
    sections = {}
    hints = get_type_hints(Config)
    for name, values in record.items():
        if name not in known:
            raise ConfigurationError(f"unknown section [{name}]", hint=nearest(name, known))
        sections[name] = record_of(name, hints[name], values)
    config = Config(**sections)
    _check(config)
    _check_times(config)
    _check_names(config)
    _check_limits(config)
    narrowed(search_space(config.study.policy, config.features.stack_bars), config.study.ranges)
    return config


def resolve_state_dir(configured: str) -> Path:
    """The configured directory, else systemd's, else the XDG state directory."""
    if configured:
        return _place("run.state_dir", configured)
    if given := os.environ.get("STATE_DIRECTORY", ""):
        return Path(given.split(":")[0])
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "cappuccino"


def _read(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}", hint="name it with --config") from error
    try:
        record: Any = json.loads(data) if path.suffix == ".json" else tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not valid: {error}") from error
    if not isinstance(record, dict):
        raise ConfigurationError(f"{path} is not valid: it holds no sections", hint="keys belong under a [section]")
    return record


def _split(override: str) -> tuple[str, str, Any]:
    name, equals, text = override.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and key):
        raise ConfigurationError(f"cannot read the override {override!r}", hint="write section.key=value")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # an unquoted string
    if not isinstance(value, bool | int | float | str | list):  # TOML would make a time of an unquoted time
        value = text.strip()
    return section, key, value


def _check(config: Config) -> None:
    """Ranges and combinations that no type can express."""
    for section in fields(config):
        record = getattr(config, section.name)
        for item in fields(record):
            value, name = getattr(record, item.name), f"{section.name}.{item.name}"
            negative_is_wrong = isinstance(value, int | float) and not isinstance(value, bool)
            if negative_is_wrong and not (0 <= value < float("inf")):
                raise ConfigurationError(f"{name} must not be negative, got {value!r}")
            if item.name.endswith("_utc") and value and not _is_utc(value):
                raise ConfigurationError(f"{name} is {value!r}", hint='write a UTC time: "2024-01-01T00:00:00Z"')
    at_least_one = (
        ("market.timeframe_s", config.market.timeframe_s), ("features.stack_bars", config.features.stack_bars),
        ("data.n_folds", config.data.n_folds), ("study.target_trials", config.study.target_trials),
        ("study.seeds", config.study.seeds), ("study.accounts", config.study.accounts),
        ("study.train_steps", config.study.train_steps), ("promotion.every_trials", config.promotion.every_trials),
        ("promotion.seeds", config.promotion.seeds), ("promotion.cross_seeds", config.promotion.cross_seeds),
        ("promotion.finalists", config.promotion.finalists), ("promotion.ensemble_members", config.promotion.ensemble_members),
    )  # fmt: skip
    for name, value in at_least_one:
        if value < 1:
            raise ConfigurationError(f"{name} must be at least 1, got {value}")
    if not config.market.tickers or len(set(config.market.tickers)) != len(config.market.tickers):
        raise ConfigurationError(
            "market.tickers must be distinct and at least one", hint=f"got {config.market.tickers}"
        )
    for name, share in (
        ("data.holdout_share", config.data.holdout_share), ("promotion.dsr_threshold", config.promotion.dsr_threshold),
    ):  # fmt: skip
        if not 0 < share < 1:
            raise ConfigurationError(f"{name} must lie between 0 and 1, got {share}")
    drawn = config.market.source == "simulated" and config.simulation.world == "bootstrap"
    if (config.market.source == "recorded" or drawn) and not config.market.recorded_path:
        raise ConfigurationError(
            "market.recorded_path is empty",
            hint="name the candles that the world bootstrap draws from" if drawn else "name the candles to read",
        )
    _check_broker(config)


def _check_times(config: Config) -> None:
    if not config.simulation.start_utc:
        raise ConfigurationError("simulation.start_utc is empty", hint='write a UTC time: "2021-01-01T00:00:00Z"')
    if config.paper.clock == "replay" and not config.paper.replay_start_utc:
        raise ConfigurationError("paper.replay_start_utc is empty", hint="a replay needs its first bar")
    given = [(n, t) for n in ("train_start_utc", "judge_start_utc", "end_utc") if (t := getattr(config.data, n))]
    for (early, first), (late, second) in pairwise(given):
        if datetime.fromisoformat(first) >= datetime.fromisoformat(second):
            raise ConfigurationError(f"data.{early} is {first}", hint=f"it must be before data.{late}, {second}")


def _check_names(config: Config) -> None:
    """What names a folder names one: with a slash in it, the janitor would look for the study's trials in vain."""
    run, market = config.run, config.market
    for key, text in (("state_dir", run.state_dir), ("credentials_dir", run.credentials_dir)):
        _place(f"run.{key}", text)
    _place("market.recorded_path", market.recorded_path)
    for key, text, hint in (
        ("study.name", config.study.name, "write 2026-11 for 2026/11"),
        ("market.exchange", market.exchange, "write an exchange as ccxt calls it"),
        ("market.quote", market.quote, "write one currency: USDT"),
        *(
            ("market.tickers", t, "write the coin alone, BTC; what it is priced in is market.quote")
            for t in market.tickers
        ),
    ):
        if not text or text.startswith(".") or "/" in text or "\0" in text:
            raise ConfigurationError(f"{key} cannot be {text!r}: it names a folder", hint=hint)


def _check_limits(config: Config) -> None:
    """Fractions; those of risk and screening can be off: 1 for what is a ceiling, 0 for the others."""
    for name in ("min_cash_reserve", "max_weight", "no_trade_band"):
        if (share := getattr(config.allocation, name)) > 1:
            raise ConfigurationError(f"allocation.{name} must be between 0 and 1, got {share}")
    risk, off_at_1, off_at_0 = config.risk, "above 0, at most 1 (off)", "below 1 (0 is off)"
    shares = [(f"risk.{n}", getattr(risk, n), off_at_1) for n in ("max_weight", "max_drawdown")]
    for name in ("min_cash_reserve", "stop_loss", "trailing_stop", "portfolio_trailing_stop", "daily_loss"):
        shares.append((f"risk.{name}", getattr(risk, name), off_at_0))
    shares += [
        ("study.screen_share", config.study.screen_share, off_at_0),
        ("study.screen_keep", config.study.screen_keep, off_at_1),
    ]
    for name, share, rule in (*shares, ("paper.loss_alarm", config.paper.loss_alarm, off_at_0)):
        if not (0 < share <= 1 if rule is off_at_1 else share < 1):
            raise ConfigurationError(f"{name} must be {rule}, got {share}")


def _check_broker(config: Config) -> None:
    """A venue's account trades at the venue's own prices, lots and time."""
    broker, market = config.paper.broker, config.market
    if broker == "simulated":
        return
    if config.paper.clock != "live":
        raise ConfigurationError("a replay has old prices, a venue's account has today's", hint='paper.clock = "live"')
    if broker == "alpaca" and (market.source, market.quote) != ("alpaca", "USD"):
        raise ConfigurationError(
            f"paper.broker is alpaca, the bars are {market.source}'s in {market.quote}",
            hint='set market.source = "alpaca" and market.quote = "USD"',
        )
    if broker == "ccxt" and (market.source, market.exchange) != ("ccxt", "binance"):
        raise ConfigurationError(
            "paper.broker ccxt trades on binance's sandbox alone: how an order is found again differs with every venue",
            hint='set market.source = "ccxt" and market.exchange = "binance"',
        )


def _place(key: str, text: str) -> Path:
    """Where it is. Raises ConfigurationError for what cannot be a path here."""
    try:
        return Path(text).expanduser().resolve()
    except (RuntimeError, ValueError) as error:  # ~somebody who is no user here, links in a circle, a NUL
        raise ConfigurationError(f"{key} is {text!r}: {error}", hint="write an absolute path") from error


def _is_utc(text: str) -> bool:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return False
    offset = moment.utcoffset()
    return offset is not None and offset.total_seconds() == 0
