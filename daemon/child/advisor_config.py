"""What the configuration says to the advisor, checked when it is built."""

import re
from dataclasses import dataclass

from features.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvisorConfig:
    every_trials: int = 50
    poll_s: float = 30.0
    daily_at: str = "06:00"
    trial_share: float = 0.15

    def __post_init__(self) -> None:
        if self.every_trials < 1:
            raise ConfigurationError(f"advisor.every_trials must be at least 1, got {self.every_trials}")
        if not self.poll_s > 0:
            raise ConfigurationError(f"advisor.poll_s must be above 0, got {self.poll_s}")
        if self.daily_at and not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", self.daily_at):
            raise ConfigurationError(f"advisor.daily_at is {self.daily_at!r}", hint='write hh:mm in UTC, or ""')
        if not 0 <= self.trial_share <= 0.5:
            raise ConfigurationError(
                f"advisor.trial_share is {self.trial_share}", hint="0 (none) to 0.5: every proposal has a control"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmConfig:
    enabled: bool = False
    address: str = "http://127.0.0.1:11434/v1"
    model: str = ""
    timeout_s: float = 120.0
    max_proposals: int = 3

    def __post_init__(self) -> None:
        if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", self.address):
            raise ConfigurationError(
                f"llm.address is {self.address!r}", hint='write "http://HOST:PORT/v1", without keys in it'
            )
        if self.enabled and not self.model:
            raise ConfigurationError("llm.enabled without llm.model", hint="name the model that the server shall use")
        if not 0 < self.timeout_s <= 300 or self.max_proposals < 1:
            raise ConfigurationError(
                f"llm.timeout_s is {self.timeout_s}, llm.max_proposals {self.max_proposals}",
                hint="0 to 300 s, at least one proposal",
            )
