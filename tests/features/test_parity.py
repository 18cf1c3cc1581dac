"""Stream against batch on all real candles, whatever the market and the machine do to the stream meanwhile."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.bars import Bars, candles_from_bars
from features.pipeline import FeatureRows, FeatureStream, compute
from features.spec import FeatureSpec, preset
from features.store.candles import Candles
from features.store.store import CandleStore

PRESETS = ("stationary", "classic")
HOUR_S = 3600
VENUE = "venue"
EPOCH_BARS = 1_000  # a restart reads one to two times so much history


def spec_of(name: str, bars: Bars) -> FeatureSpec:
    return preset(name, tickers=bars.tickers, timeframe_s=HOUR_S)


def assert_same(live: Sequence[FeatureRows], rows: FeatureRows, spec: FeatureSpec) -> None:
    """The rows of a stream, one bar each, are the rows of the batch at the same closes, to the bit."""
    times = np.concatenate([row.close_time_s for row in live])
    at = np.searchsorted(rows.close_time_s, times)
    for name, columns in (("asset", spec.asset_columns), ("shared", spec.shared_columns)):
        got = np.concatenate([getattr(row, name) for row in live]).view(np.int64)
        wrong = got != np.ascontiguousarray(getattr(rows, name)[at]).view(np.int64)
        if wrong.any():
            names = [c for k, c in enumerate(columns) if wrong[..., k].any()]
            raise AssertionError(f"{', '.join(names)} differ, first at {times[np.argwhere(wrong)[0][0]]}")


@pytest.mark.parametrize("name", PRESETS)
def test_every_bar_of_the_real_candles_streams_to_the_very_bits_of_the_batch(name: str, real_bars: Bars) -> None:
    spec = spec_of(name, real_bars)
    start = spec.warmup_bars + 1
    live = FeatureStream(spec, real_bars.slice(0, start))
    assert real_bars.filled.all(axis=1).sum() == 20, "the outage hours belong to the data"
    streamed = [live.update(real_bars.slice(k, k + 1)) for k in range(start, real_bars.n_bars)]
    assert_same(streamed, compute(real_bars, spec), spec)


def pairs_of(bars: Bars) -> dict[str, str]:
    return {ticker: f"{ticker}-USDT" for ticker in bars.tickers}


def stored(store: CandleStore, bars: Bars, *, after_s: int, until_s: int) -> Bars:
    return store.bars(VENUE, HOUR_S, pairs_of(bars), after_s=after_s, until_s=until_s)


@pytest.fixture(scope="session")
def real_store(real_bars: Bars, tmp_path_factory: pytest.TempPathFactory) -> CandleStore:
    """All real candles in a store; the outage hours are in none of its files."""
    store, table = CandleStore(tmp_path_factory.mktemp("store")), candles_from_bars(real_bars)
    span = (real_bars.first_close_s - HOUR_S, real_bars.last_close_s)
    with store.writer(VENUE, HOUR_S, pause=lambda: None) as writer:
        for ticker, pair in pairs_of(real_bars).items():
            candles = Candles.of_source(table[table["ticker"] == ticker], timeframe_s=HOUR_S)
            writer.append(pair, candles, answered=span, seen_s=span[1])
    return store


def restart_at(store: CandleStore, bars: Bars, positions: list[int]) -> None:
    """Open a stream of each preset on what the store has up to each position and let it live on for two bars.

    Recursive features remember where history began, so the batch it is held against begins at the same bar.
    """
    rows: dict[tuple[int, str], FeatureRows] = {}
    for k in positions:
        origin = max(0, k - EPOCH_BARS) // EPOCH_BARS * EPOCH_BARS
        after_s, until_s = int(bars.close_time_s[origin]) - HOUR_S, int(bars.close_time_s[k + 1])
        known = stored(store, bars, after_s=after_s, until_s=until_s)
        for name in PRESETS:
            spec = spec_of(name, bars)
            if (origin, name) not in rows:
                rows[origin, name] = compute(bars.slice(origin, min(bars.n_bars, origin + 2 * EPOCH_BARS + 2)), spec)
            live = FeatureStream(spec, known.slice(0, known.n_bars - 2))
            lived = [live.update(known.slice(n, n + 1)) for n in range(known.n_bars - 2, known.n_bars)]
            assert_same(lived, rows[origin, name], spec)


def random_positions(bars: Bars, n: int) -> list[int]:
    return np.random.default_rng(2026).integers(250, bars.n_bars - 2, n).tolist()


def test_a_stream_restarted_from_the_store_goes_on_with_the_same_bits(real_bars: Bars, real_store: CandleStore) -> None:
    """At random bars of all four years and in the middle of outages."""
    outages = np.flatnonzero(real_bars.filled.all(axis=1)).tolist()
    restart_at(real_store, real_bars, random_positions(real_bars, 25) + outages[2::4])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_stream_restarted_from_the_store_at_a_thousand_bars_goes_on_with_the_same_bits(
    real_bars: Bars, real_store: CandleStore
) -> None:
    restart_at(real_store, real_bars, random_positions(real_bars, 1000))


@dataclass(frozen=True, slots=True)
class Faults:
    """Row numbers of candles that never come, come twice, come two hours late, or come wrong and are revised."""

    missing: set[int]
    doubled: set[int]
    late: set[int]
    revised: set[int]


def deliveries(candles: pd.DataFrame, faults: Faults) -> Iterator[tuple[int, dict[str, object]]]:
    """(second at which it arrives, candle) in order of the candles."""
    for k, row in enumerate(candles.to_dict("records")):
        if k in faults.missing:
            continue
        close_s = int(row["time"].timestamp()) + HOUR_S
        if k in faults.revised:
            yield close_s, row | {"close": row["low"], "volume": row["volume"] / 2}
        yield close_s + 2 * HOUR_S * (k in faults.late or k in faults.revised), row
        if k in faults.doubled:
            yield close_s + HOUR_S, row


def hour_by_hour(store: CandleStore, bars: Bars, faults: Faults, *, begin: int) -> Iterator[int]:
    """Put arrivals into the store as answers of the venue, from bar `begin` on hour by hour; yields the answered close.

    Until a candle comes late the venue has answered that there is none: the store fills the gap, and revises it.
    """
    table = candles_from_bars(bars).sort_values(["time", "ticker"], ignore_index=True)
    arrivals = list(deliveries(table, faults))
    answered_s = bars.first_close_s - HOUR_S
    for close_s in bars.close_time_s[begin:].tolist():
        due = [(arrives_s, row) for arrives_s, row in arrivals if answered_s < arrives_s <= close_s]
        newest = {(row["ticker"], row["time"]): row for _, row in sorted(due, key=itemgetter(0))}
        with store.writer(VENUE, HOUR_S, pause=lambda: None) as writer:
            for ticker, pair in pairs_of(bars).items():
                fresh = pd.DataFrame([row for (of, _), row in newest.items() if of == ticker])
                writer.append(
                    pair, Candles.of_source(fresh, timeframe_s=HOUR_S), answered=(answered_s, close_s), seen_s=close_s
                )
        answered_s = close_s
        yield close_s


def test_gaps_duplicates_late_and_revised_bars_end_in_the_bits_of_the_batch(real_bars: Bars, tmp_path: Path) -> None:
    """At any hour the streams that a reader of the store opens, and lets live on for six bars, equal the batch."""
    bars, begin = real_bars.slice(20_000, 20_290), 250
    picked = np.random.default_rng(7).permutation(np.arange(bars.n_tickers, int((~bars.filled).sum()))).tolist()
    faults = Faults(set(picked[:100]), set(picked[100:300]), set(picked[300:500]), set(picked[500:700]))
    store, holes = CandleStore(tmp_path), []
    for close_s in hour_by_hour(store, bars, faults, begin=begin):
        known = stored(store, bars, after_s=bars.first_close_s - HOUR_S, until_s=close_s)
        holes.append(int(known.filled.sum()))
        for name in PRESETS:
            spec, cut = spec_of(name, bars), known.n_bars - 6
            live = FeatureStream(spec, known.slice(0, cut))
            lived = [live.update(known.slice(n, n + 1)) for n in range(cut, known.n_bars)]
            assert_same(lived, compute(known, spec), spec)
    revisions = sum(len(store.shelf(VENUE, HOUR_S, pair).revisions()) for pair in pairs_of(bars).values())
    assert revisions > 20, "late and revised candles were noticed"
    assert holes[0] > 50, "missing candles were filled forward"
    assert (np.diff(holes) < 0).any(), "a late candle took the place of a filled one"
