"""The error of a market that does not answer; apart from its adapter so that catching it loads no exchange library."""

from features.errors import CappuccinoError


class MarketUnavailable(CappuccinoError):
    """The exchange gave no usable answer for now. Nothing was lost: the same read may be repeated later.

    retry_after_s: how long the exchange asked us to stay away, None when it did not say.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s
