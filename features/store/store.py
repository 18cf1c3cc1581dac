"""The candle store: what a venue has said, one Parquet file per venue, timeframe, pair and UTC month.

    binance/1h/BTC-USDT/2024-01.parquet   true candles that close in the month; possibly none
                       /answered.json     the ranges the venue has answered: it commits what the months hold
                       /revisions.jsonl   every candle that changed or appeared where the venue had answered before

Readers take no lock. They see what `answered.json` covers, and it is replaced after the months it covers, so what they
see is always whole. There is one writer per venue and timeframe, by a file lock; a writer that dies at any instruction
leaves the store without its page or with it, and asking again changes nothing.

Revisions are written before the months and laid over them when read. So whoever remembers how many revisions there
were reads the same candles for ever (`as_of`), whatever the venue says later.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from features.bars import Bars, bars_on_grid, empty_bars
from features.errors import DataError
from features.files import append_jsonl, held, sync_directory, write_atomic
from features.store.candles import Candles, Revision, month_span, months_of, timeframe_of, timeframe_text
from features.store.files import month_bytes, read_month
from features.store.shelf import ANSWERED, ASIDE, REVISIONS, Shelf
from features.venue_rules import VenueRules


class CandleStore:
    """All candles under `root`. `crash_point` is called after every step that reaches the disk; tests die there."""

    def __init__(self, root: Path, *, crash_point: Callable[[str], None] = lambda _: None) -> None:
        self.root = root
        self._crash_point = crash_point

    def shelf(self, venue: str, timeframe_s: int, pair: str) -> Shelf:
        return Shelf(path=self._folder(venue, timeframe_s) / pair, timeframe_s=timeframe_s)

    def shelves(self) -> tuple[tuple[str, Shelf], ...]:
        """(venue, shelf) of every pair that has a folder, in order."""
        found = []
        for path in sorted(self.root.glob("*/*/*/")):
            try:
                found.append((path.parts[-3], Shelf(path=path, timeframe_s=timeframe_of(path.parts[-2]))))
            except DataError:  # somebody's own folder: not one of ours
                continue
        return tuple(found)

    @contextmanager
    def writer(self, venue: str, timeframe_s: int, *, pause: Callable[[], None]) -> "Iterator[Writer]":
        """The one writer of a venue's timeframe. `pause` is called again and again while another process writes."""
        folder = self._folder(venue, timeframe_s)
        with held(folder / "writer.lock", pause=pause):
            yield Writer(folder, timeframe_s=timeframe_s, crash_point=self._crash_point)

    def bars(
        self, venue: str, timeframe_s: int, pairs: Mapping[str, str], *, after_s: int, until_s: int,
        as_of: Mapping[str, int] | None = None,
    ) -> Bars:  # fmt: skip
        """Bars on the regular grid with `after_s < close_time_s <= until_s`, gaps filled forward.

        pairs: ticker → pair; their order is that of the bars. The end is that of the pair about which least is known:
        a candle that is merely late is not a gap. as_of: ticker → how many revisions count.
        """
        shelves = {ticker: self.shelf(venue, timeframe_s, pair) for ticker, pair in pairs.items()}
        ends = [shelf.answered().known_until(until_s) for shelf in shelves.values()]
        stop_s = min((end for end in ends if end is not None), default=after_s)
        if None in ends or stop_s <= after_s:
            return empty_bars(tuple(pairs), timeframe_s)
        parts = []
        for ticker, shelf in shelves.items():
            seen = None if as_of is None else as_of[ticker]
            lead, close = shelf.newest(until_s=after_s, as_of=seen), shelf.oldest(after_s=stop_s, as_of=seen)
            inside = shelf.candles(after_s=after_s, until_s=stop_s, as_of=seen)
            whole = Candles.joined([lead, inside, close], timeframe_s=timeframe_s)
            parts.append((whole.close_time_s, whole.ohlcv))
        if not all(len(times) for times, _ in parts):
            return empty_bars(tuple(pairs), timeframe_s)
        return bars_on_grid(parts, tickers=tuple(pairs), timeframe_s=timeframe_s).between(after_s, stop_s)

    def venue_rules(self, venue: str, quote: str) -> VenueRules | None:
        """The stored rules of the venue's pairs in `quote`; None before anybody has read them."""
        path = self.root / venue / f"rules-{quote}.json"
        return VenueRules.from_dict(json.loads(path.read_bytes())) if path.exists() else None

    def write_venue_rules(self, venue: str, quote: str, rules: VenueRules) -> None:
        write_atomic(self.root / venue / f"rules-{quote}.json", json.dumps(rules.to_dict(), indent=1).encode())

    def _folder(self, venue: str, timeframe_s: int) -> Path:
        return self.root / venue / timeframe_text(timeframe_s)


class Writer:
    """What the holder of a timeframe's lock may do. Only `CandleStore.writer` makes one."""

    def __init__(self, folder: Path, *, timeframe_s: int, crash_point: Callable[[str], None]) -> None:
        self._folder, self._timeframe_s, self._crash_point = folder, timeframe_s, crash_point

    def append(
        self, pair: str, fresh: Candles, *, answered: tuple[int, int], seen_s: int
    ) -> tuple[int, tuple[Revision, ...]]:  # fmt: skip
        """Merge what the venue answered for a range; (candles that are new, what it said differently before).

        answered: `after_s < close_time_s <= until_s` for which `fresh` is everything there is. A candle met before
        changes nothing; one that differs replaces the old, which is written to the revisions first.
        """
        shelf = Shelf(path=self._folder / pair, timeframe_s=self._timeframe_s)
        self._sweep(shelf)
        before, added, revised = shelf.answered(), 0, []
        for month in months_of(*_hull(answered, fresh), timeframe_s=self._timeframe_s):
            stored, known = self._month(shelf, month), shelf.revisions()
            span = month_span(month, timeframe_s=self._timeframe_s)
            merged, changes = (
                stored.overlaid(known, as_of=len(known)).between(*span).merged(fresh.between(*span), seen_s=seen_s)
            )
            added += sum(change.old is None for change in changes)
            for change in changes:
                if change.old is not None or before.has(change.close_time_s):
                    append_jsonl(shelf.path / REVISIONS, change.to_dict())
                    self._crash_point("revision appended")
                    revised.append(change)
            if merged.sha256() != stored.sha256() or not shelf.month_path(month).exists():
                self._replace(shelf.month_path(month), month_bytes(merged))
        after = before.including(*answered)
        if after != before:
            self._replace(shelf.path / ANSWERED, json.dumps({"answered": after.spans}).encode())
        return added, tuple(revised)

    def replace_month(self, pair: str, month: str, fresh: Candles) -> Path | None:
        """Put `fresh` in the place of a damaged month; the damaged file is kept, and its new place returned."""
        shelf = Shelf(path=self._folder / pair, timeframe_s=self._timeframe_s)
        kept = self._keep_aside(shelf.month_path(month))
        self._replace(shelf.month_path(month), month_bytes(fresh))
        return kept

    def set_aside(self, path: Path) -> Path | None:
        """Take a damaged log or list of ranges out of the store; what it said has to be asked again."""
        kept = self._keep_aside(path)
        path.unlink(missing_ok=True)
        sync_directory(path.parent)
        return kept

    def _month(self, shelf: Shelf, month: str) -> Candles:
        if month not in shelf.months():
            return Candles.empty(self._timeframe_s)
        return read_month(shelf.month_path(month), timeframe_s=self._timeframe_s)

    def _replace(self, path: Path, data: bytes) -> None:
        write_atomic(path, data, crash_point=lambda step: self._crash_point(f"{path.name}: {step}"))
        self._crash_point(f"{path.name}: directory synced")

    def _keep_aside(self, path: Path) -> Path | None:
        """A second name for the file in `damaged/`: the first stays until the replacement takes it."""
        if not path.exists():
            return None
        aside = path.parent / ASIDE
        aside.mkdir(exist_ok=True)
        number = 1 + sum(1 for _ in aside.glob(f"{path.name}.*"))
        kept = aside / f"{path.name}.{number}"
        os.link(path, kept)
        sync_directory(aside)
        self._crash_point(f"{path.name}: kept aside")
        return kept

    def _sweep(self, shelf: Shelf) -> None:
        """Drafts of writers that died: nobody else writes here now."""
        for draft in shelf.path.glob(".*.*"):
            draft.unlink()


def _hull(answered: tuple[int, int], fresh: Candles) -> tuple[int, int]:
    """The smallest range with both in it."""
    if not len(fresh):
        return answered
    first_s, last_s = int(fresh.close_time_s[0]) - fresh.timeframe_s, int(fresh.close_time_s[-1])
    return min(answered[0], first_s), max(answered[1], last_s)
