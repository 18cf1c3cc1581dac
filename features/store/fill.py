"""From a venue into the store: ask for what is missing, a page at a time, each page durable before the next is asked."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from features.errors import DataError
from features.sources.base import CandleSource
from features.store.candles import Candles, Revision, month_span
from features.store.files import Damaged
from features.store.shelf import Shelf
from features.store.store import CandleStore, Writer

PAGE_BARS = 1000  # asked at once: one request at most venues


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """What came of asking. added: candles the store had not; revisions: what the venue had answered otherwise before."""

    added: int = 0
    revisions: tuple[Revision, ...] = ()

    def __add__(self, other: "Filled") -> "Filled":
        return replace(self, added=self.added + other.added, revisions=(*self.revisions, *other.revisions))


class Filler:
    """One venue's timeframe, and the live source that may be asked.

    pause: called while another process writes. on_bars: called with how many bars of the range a page settled.
    Raises what the source raises; what was stored before stays, and the next call goes on from there.
    """

    def __init__(
        self, store: CandleStore, source: CandleSource, *, venue: str, timeframe_s: int,
        clock_now_s: Callable[[], float], pause: Callable[[], None], on_bars: Callable[[int], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.store, self.source, self.venue, self.timeframe_s = store, source, venue, timeframe_s
        self._clock_now_s, self._pause, self._on_bars = clock_now_s, pause, on_bars

    def shelf(self, ticker: str) -> Shelf:
        return self.store.shelf(self.venue, self.timeframe_s, self.source.pair(ticker))

    def fill(self, ticker: str, *, after_s: int, until_s: int, reread_bars: int = 0) -> Filled:
        """Ask for every part of the range that the venue has not answered yet.

        reread_bars: how many answered ones before each part are asked again, which is how late revisions are seen.
        The lock is taken for each page anew, and what is missing is asked of the disk under it: several processes
        that need the same history share the work.
        """
        shelf, at, total = self.shelf(ticker), after_s, Filled()
        while True:
            with self._writing() as writer:
                answered = shelf.answered()
                hole = next(((a, b) for a, b in answered.missing(after_s, until_s) if b > at), None)
                if hole is None:
                    return total
                start_s = max(hole[0], at)
                stop_s = min(hole[1], start_s + PAGE_BARS * self.timeframe_s)
                lead_s = start_s - reread_bars * self.timeframe_s
                if reread_bars and start_s == hole[0] and not answered.missing(lead_s, start_s):
                    start_s = lead_s
                fresh = self._ask(ticker, start_s, stop_s)
                # A candle seen later proves that an empty stretch before it is the venue's; at the end it may be late.
                ended = stop_s == hole[1] and any(stop > stop_s for _, stop in answered.spans)
                if ended or len(fresh):
                    proven_s = stop_s if ended else int(fresh.close_time_s[-1])
                    total += self._append(writer, ticker, fresh, (min(start_s, hole[0]), proven_s))
            self._on_bars((stop_s - max(hole[0], at)) // self.timeframe_s)
            at = stop_s

    def ask_again(self, ticker: str, *, after_s: int, until_s: int) -> Filled:
        """Ask for an answered range once more: what is new or differs is a revision."""
        total = Filled()
        for start_s, stop_s in self._windows(after_s, until_s):
            with self._writing() as writer:
                total += self._append(writer, ticker, self._ask(ticker, start_s, stop_s), (start_s, start_s))
            self._on_bars((stop_s - start_s) // self.timeframe_s)
        return total

    def replace_month(self, ticker: str, month: str) -> tuple[Candles, Path | None]:
        """Ask for a whole month, then put it in the damaged file's place; (candles, where the damaged file is kept).

        Raises Damaged, and leaves the file, when the venue has nothing for a month of which there is a file.
        """
        shelf = self.shelf(ticker)
        after_s, until_s = month_span(month, timeframe_s=self.timeframe_s)
        windows = self._windows(after_s, min(until_s, self.source.last_close_s()))
        with self._writing() as writer:
            fresh = Candles.joined([self._ask(ticker, *w) for w in windows], timeframe_s=self.timeframe_s)
            if not len(fresh) and shelf.month_path(month).exists():
                raise Damaged(shelf.month_path(month), "and the venue has no candles to put in its place")
            kept = writer.replace_month(shelf.pair, month, fresh)
            self._append(writer, ticker, fresh, (after_s, after_s))  # where it contradicts an earlier revision
        return fresh, kept

    def set_aside(self, path: Path) -> Path | None:
        with self._writing() as writer:
            return writer.set_aside(path)

    def _windows(self, after_s: int, until_s: int) -> list[tuple[int, int]]:
        page_s = PAGE_BARS * self.timeframe_s
        return [(start_s, min(until_s, start_s + page_s)) for start_s in range(after_s, until_s, page_s)]

    def _ask(self, ticker: str, after_s: int, until_s: int) -> Candles:
        table = self.source.candles(ticker, after_s=after_s, until_s=until_s)
        try:
            return Candles.of_source(table, timeframe_s=self.timeframe_s)
        except DataError as error:
            raise DataError(
                f"{self.source.name} gave a bad candle of {self.source.pair(ticker)}: {error}",
                hint="check market.timeframe_s",  # the grid alone: a live source keeps the other rules itself
            ) from error

    def _append(self, writer: Writer, ticker: str, fresh: Candles, answered: tuple[int, int]) -> Filled:
        added, revisions = writer.append(
            self.source.pair(ticker), fresh, answered=answered, seen_s=int(self._clock_now_s())
        )
        return Filled(added=added, revisions=revisions)

    def _writing(self) -> AbstractContextManager[Writer]:
        return self.store.writer(self.venue, self.timeframe_s, pause=self._pause)
