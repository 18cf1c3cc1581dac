"""One finding of the doctor: what was looked at, how it is, and what to do."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """remedy: never empty when the level is not ok."""

    check: str
    level: Level
    text: str
    remedy: str = ""

    def __post_init__(self) -> None:
        assert self.level == "ok" or self.remedy, f"{self.check}: a finding without a remedy helps nobody"


def ok(check: str, text: str) -> Finding:
    return Finding(check=check, level="ok", text=text)
