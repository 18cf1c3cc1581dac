"""Errors of live markets; apart from their adapters so that catching them loads no exchange library."""

from features.errors import CappuccinoError, ConfigurationError


class MarketUnavailable(CappuccinoError):
    """The exchange gave no usable answer for now. Nothing was lost: the same read may be repeated later.

    retry_after_s: how long the exchange asked us to stay away, None when it did not say.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class BadCandle(MarketUnavailable):
    """The exchange gave a candle that no trades can make. It may yet correct it; nothing of that answer is kept."""


class HistoryTooShort(ConfigurationError):
    """The venue does not serve candles as old as were asked for, whenever one asks.

    oldest_close_s: close time of the oldest candle it serves now; it moves on with every bar.
    """

    def __init__(self, message: str, *, oldest_close_s: int, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.oldest_close_s = oldest_close_s
