"""What the configuration says to the supervisor, the janitor and the notifier, checked when it is built."""

from dataclasses import dataclass
from typing import Any, Literal

from features.errors import ConfigurationError

LEAST_OPEN_FILES = 64  # a program that imports numpy and opens its databases holds some thirty


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonConfig:
    backoff_first_s: float = 1.0
    backoff_max_s: float = 300.0
    backoff_reset_s: float = 600.0
    max_restarts: int = 5
    restart_window_s: float = 600.0
    worker_hang_s: float = 120.0
    trader_hang_s: float = 30.0
    service_hang_s: float = 600.0
    stop_grace_worker_s: float = 30.0
    stop_grace_trader_s: float = 15.0
    stop_grace_s: float = 20.0
    torch_threads: int = 1
    spawn_pace_s: float = 1.0
    max_workers: int = 64
    max_open_files: int = 4096
    worker_rss_bytes: int = 16_000_000_000
    service_rss_bytes: int = 2_000_000_000
    worker_nice: int = 5
    worker_oom_score_adj: int = 800
    worker_cpus: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.backoff_first_s <= self.backoff_max_s:
            raise ConfigurationError("daemon.backoff_first_s must be positive and at most daemon.backoff_max_s")
        _require_positive(
            "daemon", self, "restart_window_s", "worker_hang_s", "trader_hang_s", "service_hang_s",
        )  # fmt: skip
        _require_at_least("daemon", self, 1, "torch_threads")
        _require_at_least("daemon", self, LEAST_OPEN_FILES, "max_open_files")


@dataclass(frozen=True, slots=True, kw_only=True)
class JanitorConfig:
    every_s: float = 600.0
    poll_s: float = 5.0
    warn_free_bytes: int = 50_000_000_000
    resume_free_bytes: int = 3_000_000_000
    floor_free_bytes: int = 2_000_000_000
    keep_top: int = 20
    keep_reports: int = 200
    keep_advice: int = 100
    reserve_bytes: int = 3_145_728
    log_max_bytes: int = 50_000_000
    backup_every_s: float = 86_400.0
    keep_backups: int = 7

    def __post_init__(self) -> None:
        _require_positive("janitor", self, "every_s", "poll_s", "log_max_bytes", "backup_every_s")
        _require_at_least("janitor", self, 1, "keep_reports", "keep_advice", "keep_backups")
        _require_below(
            "janitor.floor_free_bytes",
            "janitor.resume_free_bytes",
            ordered=self.floor_free_bytes <= self.resume_free_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuConfig:
    reserve_bytes: int = 1_000_000_000
    warn_temperature_c: float = 80.0
    pause_temperature_c: float = 85.0
    busy_utilisation: float = 0.95

    def __post_init__(self) -> None:
        _require_below(
            "gpu.warn_temperature_c",
            "gpu.pause_temperature_c",
            ordered=self.warn_temperature_c < self.pause_temperature_c,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyConfig:
    enabled: bool = False
    at_least: Literal["info", "warn", "fail"] = "info"
    burst: int = 5
    per_hour: float = 12.0
    ping_every_s: float = 60.0
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        _require_at_least("notify", self, 1, "burst")
        _require_positive("notify", self, "per_hour", "ping_every_s", "timeout_s")


def _require_positive(section: str, record: Any, *names: str) -> None:
    """What is waited for, or looked at again after: with none of it a loop never rests, or a patience is over at once."""
    for name in names:
        if not getattr(record, name) > 0:
            raise ConfigurationError(f"{section}.{name} must be above 0, got {getattr(record, name)}")


def _require_at_least(section: str, record: Any, least: int, *names: str) -> None:
    for name in names:
        if getattr(record, name) < least:
            raise ConfigurationError(f"{section}.{name} must be at least {least}, got {getattr(record, name)}")


def _require_below(low: str, high: str, *, ordered: bool) -> None:
    if not ordered:
        raise ConfigurationError(f"{low} must be below {high}", hint="the gap keeps training from flapping")
