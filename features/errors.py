"""Errors that every program shares; the name says what the catcher does, `hint` says what the reader can do."""

from collections.abc import Sequence
from typing import ClassVar


class CappuccinoError(Exception):
    """Root of every error raised on purpose. `exit_code` is what `main` returns for it."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.hint})" if self.hint else message


class ConfigurationError(CappuccinoError):
    """The configuration cannot be used as it stands; restarting will not help."""

    exit_code = 78


class ContractMismatch(CappuccinoError):
    """Two sides of the training-trading contract differ; `differences` names each one."""

    exit_code = 78

    def __init__(self, message: str, *, differences: Sequence[str], hint: str = "") -> None:
        self.differences = tuple(differences)
        listing = "".join(f"\n  - {line}" for line in self.differences)
        super().__init__(message + listing, hint=hint)


class DataError(CappuccinoError):
    """Market data breaks a rule it must keep (order, finiteness, OHLC bounds, uniqueness)."""
