"""What is wrong with a pair in the store, and how it is put right: by asking the venue again, never by guessing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from features.errors import CappuccinoError
from features.sources.errors import BadCandle, MarketUnavailable
from features.store.candles import month_span
from features.store.files import REPAIR, Damaged, read_month
from features.store.fill import Filler
from features.store.shelf import ANSWERED, REVISIONS, Shelf

FOREVER = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something an operator has to act on."""

    path: str
    problem: str
    remedy: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """replaced: month → where the damaged file is kept, None where there was none. filled: candles that were missing.

    missing: grid points between the first and the last candle for which the venue has none. failed: what is still
    wrong, and why.
    """

    replaced: dict[str, str | None]
    set_aside: tuple[str, ...]
    filled: int
    missing: int
    failed: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def findings(shelf: Shelf) -> tuple[Finding, ...]:
    """Everything wrong with the files of one pair; reads all of them."""
    found = [_finding(d) for d in (_damage(shelf.revisions), _damage(shelf.answered)) if d is not None]
    found += [_finding(damage) for damage in damaged_months(shelf).values()]
    if not found:
        spans = shelf.answered().spans
        for (_, left_s), (right_s, _) in pairwise(spans):
            bars = (right_s - left_s) // shelf.timeframe_s
            found.append(Finding(path=str(shelf.path), problem=f"{bars} bars were never asked for", remedy=REPAIR))
    return tuple(found)


def damaged_months(shelf: Shelf) -> dict[str, Damaged]:
    """Month → what is wrong with its file."""
    months = shelf.months() if _damage(shelf.answered) is None else sorted(shelf.stored_months())
    found = {}
    for month in months:
        damage = _damage(partial(read_month, shelf.month_path(month), timeframe_s=shelf.timeframe_s))
        if damage is not None:
            found[month] = damage
    return found


def repair(filler: Filler, ticker: str) -> Repaired:
    """Put one pair right. Raises MarketUnavailable when the venue does not answer; what was mended before stays."""
    shelf = filler.shelf(ticker)
    stored, aside = shelf.stored_months(), _set_aside(filler, shelf)
    replaced: dict[str, str | None] = {}
    failed: list[str] = []
    for month in damaged_months(shelf):
        with _noting(failed):
            _, kept = filler.replace_month(ticker, month)
            replaced[month] = None if kept is None else str(kept)
    filled, missing = 0, 0
    if not damaged_months(shelf):
        edges = [edge for span in shelf.answered().spans for edge in span]
        if any(Path(path).name.startswith(ANSWERED) for path in aside):
            edges += [edge for month in stored for edge in month_span(month, timeframe_s=shelf.timeframe_s)]
        with _noting(failed):
            if edges:
                until_s = min(max(edges), filler.source.last_close_s())
                filled += filler.fill(ticker, after_s=min(edges), until_s=until_s).added
            for first_s, last_s in shelf.candles(after_s=0, until_s=FOREVER).gaps():
                filled += filler.ask_again(ticker, after_s=first_s - shelf.timeframe_s, until_s=last_s).added
        missing = missing_bars(shelf)
    return Repaired(replaced=replaced, set_aside=aside, filled=filled, missing=missing, failed=tuple(failed))


@contextmanager
def _noting(failed: list[str]) -> Iterator[None]:
    """What cannot be mended is noted and the rest goes on; a venue that does not answer ends it all."""
    try:
        yield
    except BadCandle as error:  # an answer, and no reason to leave the rest as it is
        failed.append(str(error))
    except MarketUnavailable:
        raise
    except CappuccinoError as error:
        failed.append(str(error))


def missing_bars(shelf: Shelf) -> int:
    """Grid points between the first and the last candle that have none."""
    gaps = shelf.candles(after_s=0, until_s=FOREVER).gaps()
    return sum((last_s - first_s) // shelf.timeframe_s + 1 for first_s, last_s in gaps)


def _set_aside(filler: Filler, shelf: Shelf) -> tuple[str, ...]:
    damaged = [name for name, read in ((REVISIONS, shelf.revisions), (ANSWERED, shelf.answered)) if _damage(read)]
    return tuple(str(filler.set_aside(shelf.path / name)) for name in damaged)


def _damage(read: Callable[[], object]) -> Damaged | None:
    try:
        read()
    except Damaged as damage:
        return damage
    return None


def _finding(damage: Damaged) -> Finding:
    return Finding(path=str(damage.path), problem=damage.problem, remedy=REPAIR)
