"""Bars from the candle store, which asks the live venue for what it has not got."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from features.bars import Bars, empty_bars
from features.errors import ContractMismatch
from features.sources.base import CandleSource
from features.sources.errors import MarketUnavailable
from features.store.fill import Filler
from features.store.store import CandleStore
from features.venue_rules import VenueRules

REREAD_BARS = 3  # asked again with every new bar: a venue that corrects itself does so within the hour


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """Which bars, as they were known when they were pinned. revisions: ticker → how many had been seen."""

    first_close_s: int
    last_close_s: int
    revisions: Mapping[str, int]
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        return cls(**record)


class StoredSource:
    """A live source whose history is on disk: what is stored is never asked again, and needs no venue that answers.

    pause: called while another process writes to the same candles. Raises what the live source raises, and Damaged.
    """

    def __init__(
        self, store: CandleStore, live: CandleSource, *, venue: str, tickers: tuple[str, ...], timeframe_s: int,
        clock_now_s: Callable[[], float], pause: Callable[[], None],
    ) -> None:  # fmt: skip
        self.name = live.name
        self._store, self._live, self._venue = store, live, venue
        self._tickers, self._timeframe_s = tickers, timeframe_s
        self._pairs = {ticker: live.pair(ticker) for ticker in tickers}
        self._filler = Filler(
            store, live, venue=venue, timeframe_s=timeframe_s, clock_now_s=clock_now_s, pause=pause
        )  # fmt: skip

    def bars(self, *, after_s: int, until_s: int) -> Bars:
        """The end is that of the ticker which is furthest behind, as a live source's is."""
        stop_s = self._filled(after_s, until_s)
        return (
            self._read(after_s, stop_s, as_of=None)
            if stop_s > after_s
            else empty_bars(self._tickers, self._timeframe_s)
        )

    def pin(self) -> Pin:
        """All bars there are now, so that `pinned` gives them again whatever the venue says later."""
        after_s = self.first_close_s() - self._timeframe_s
        stop_s = self._filled(after_s, self.last_close_s())
        seen = {ticker: len(self._filler.shelf(ticker).revisions()) for ticker in self._tickers}
        bars = self._read(after_s, stop_s, as_of=seen)
        if bars.n_bars == 0:
            raise MarketUnavailable(f"{self.name} has no bar yet that all of {', '.join(self._tickers)} have")
        return Pin(
            first_close_s=bars.first_close_s, last_close_s=bars.last_close_s, revisions=seen, sha256=bars.sha256()
        )

    def pinned(self, pin: Pin) -> Bars:
        """The bars that were pinned, to the bit; ContractMismatch when the store can no longer give them."""
        if tuple(sorted(pin.revisions)) != tuple(sorted(self._tickers)):
            raise ContractMismatch(
                "the pinned bars are of other tickers",
                differences=[f"pinned {', '.join(pin.revisions)}", f"configured {', '.join(self._tickers)}"],
                hint="give study.name another value",
            )
        bars = self._read(pin.first_close_s - self._timeframe_s, pin.last_close_s, as_of=pin.revisions)
        if bars.sha256() != pin.sha256:
            raise ContractMismatch(
                f"the candles of {self._venue} are not those that were pinned",
                differences=[f"pinned {pin.sha256[:12]}", f"stored {bars.sha256()[:12]}"],
                hint="`cappuccinoctl data verify` says what is missing; or give study.name another value",
            )
        return bars

    def first_close_s(self) -> int:
        return self._live.first_close_s()

    def last_close_s(self) -> int:
        return self._live.last_close_s()

    def venue_rules(self) -> VenueRules:
        return self._live.venue_rules()

    def clock_offset_s(self) -> float | None:
        return self._live.clock_offset_s()

    def _filled(self, after_s: int, until_s: int) -> int:
        """Fill the store for every ticker; the time up to which all of them are known."""
        stop_s = min(until_s, self._live.last_close_s())
        for ticker in self._tickers:
            if stop_s <= after_s:
                break
            self._filler.fill(ticker, after_s=after_s, until_s=stop_s, reread_bars=REREAD_BARS)
            # what one ticker has not is not asked of the others
            stop_s = min(stop_s, self._filler.shelf(ticker).answered().known_until(stop_s) or after_s)
        return stop_s

    def _read(self, after_s: int, until_s: int, *, as_of: Mapping[str, int] | None) -> Bars:
        return self._store.bars(
            self._venue, self._timeframe_s, self._pairs, after_s=after_s, until_s=until_s, as_of=as_of
        )
