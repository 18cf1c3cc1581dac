"""The candle store: what goes in comes out, once; what changes is written down; what is damaged is never read."""

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.bars import bars_from_candles
from features.store.candles import Candles, Spans, candles_sha256, month_span, months_of, timeframe_of, timeframe_text
from features.store.files import Damaged, month_bytes
from features.store.shelf import Shelf
from features.store.store import CandleStore

HOUR = 3600
START_S = 1_704_067_200 - 200 * HOUR  # 200 hours before 2024: the first page crosses a year
SEEN_S = 1_800_000_000
FOREVER = 1 << 62


def walk(seed: int, *, n: int = 2000, share: float = 0.98, start_s: int = START_S) -> Candles:
    rng = np.random.default_rng(seed)
    present = np.flatnonzero(rng.random(n) < share)
    close = 100.0 * np.exp(rng.normal(0, 0.01, n).cumsum())
    opened = close * np.exp(rng.normal(0, 0.002, n))
    high, low = np.maximum(opened, close) * 1.001, np.minimum(opened, close) / 1.001
    ohlcv = np.column_stack([opened, high, low, close, rng.lognormal(3, 1, n)])
    times = start_s + HOUR * (1 + np.arange(n, dtype=np.int64))
    return Candles(timeframe_s=HOUR, close_time_s=times[present], ohlcv=ohlcv[present])


def changed(candles: Candles, *rows: int) -> Candles:
    ohlcv = candles.ohlcv.copy()
    ohlcv[list(rows), 4] += 1.0
    return Candles(timeframe_s=HOUR, close_time_s=candles.close_time_s, ohlcv=ohlcv)


def put(
    store: CandleStore, candles: Candles, *, answered: tuple[int, int] | None = None, pair: str = "BTC-USDT"
) -> tuple[int, int]:
    span = answered or (int(candles.close_time_s[0]) - HOUR, int(candles.close_time_s[-1]))
    with store.writer("binance", HOUR, pause=lambda: pytest.fail("nobody else writes")) as writer:
        added, revisions = writer.append(pair, candles, answered=span, seen_s=SEEN_S)
    return added, len(revisions)


def shelf_of(store: CandleStore, pair: str = "BTC-USDT") -> Shelf:
    return store.shelf("binance", HOUR, pair)


def everything(store: CandleStore, pair: str = "BTC-USDT") -> Candles:
    return shelf_of(store, pair).candles(after_s=0, until_s=FOREVER)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


# what goes in comes out ------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**32), cuts=st.lists(st.integers(1, 1999), max_size=6), order=st.randoms(use_true_random=False)
)
def test_however_the_pages_fall_the_store_holds_the_same_bytes_and_the_same_hash(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cuts: list[int], order: "Callable"
) -> None:
    truth = walk(seed)
    edges = [START_S + HOUR * k for k in (0, *sorted(set(cuts)), 2000)]
    spans = list(itertools.pairwise(edges))
    order.shuffle(spans)
    one, other = (CandleStore(tmp_path_factory.mktemp("store")) for _ in range(2))
    put(one, truth, answered=(START_S, edges[-1]))
    for after_s, until_s in spans:
        overlap = max(START_S, after_s - 3 * HOUR)
        put(other, truth.between(overlap, until_s), answered=(overlap, until_s))
    assert files(one.root) == files(other.root)
    assert everything(other).sha256() == truth.sha256()
    assert everything(other).close_time_s.tolist() == truth.close_time_s.tolist()


def test_a_month_is_a_file_and_an_append_rewrites_only_the_last(tmp_path: Path) -> None:
    store, truth = CandleStore(tmp_path), walk(1)
    put(store, truth.between(0, START_S + 1990 * HOUR))
    assert shelf_of(store).months() == ("2023-12", "2024-01", "2024-02", "2024-03")
    before = {p: p.stat().st_ino for p in tmp_path.rglob("*.parquet")}
    put(store, truth.between(START_S + 1990 * HOUR, FOREVER))
    assert {p.name for p, inode in before.items() if p.stat().st_ino != inode} == {"2024-03.parquet"}


def test_the_same_candles_twice_touch_no_file(tmp_path: Path) -> None:
    store, truth = CandleStore(tmp_path), walk(2)
    assert put(store, truth) == (len(truth), 0)
    before = {p: p.stat().st_ino for p in tmp_path.rglob("*")}
    assert put(store, truth) == (0, 0)
    assert {p: p.stat().st_ino for p in tmp_path.rglob("*")} == before


def test_the_hash_is_of_the_candles_and_the_pairs_names_alone(tmp_path: Path) -> None:
    one, two = walk(3), walk(4)
    assert candles_sha256({"A": one, "B": two}) == candles_sha256({"B": two, "A": one})
    assert candles_sha256({"A": one, "B": two}) != candles_sha256({"A": two, "B": one})
    assert changed(one, 7).sha256() != one.sha256()


def test_what_the_venue_has_not_answered_for_is_not_there(tmp_path: Path) -> None:
    """A page is written month by month; only its last step makes any of it visible."""
    store, truth = CandleStore(tmp_path), walk(5)
    put(store, truth, answered=(START_S, START_S + 1000 * HOUR))
    assert everything(store).sha256() == truth.between(0, START_S + 1000 * HOUR).sha256()


# what changes is written down ------------------------------------------------------------------------------------


def test_a_late_revision_wins_is_written_down_and_can_be_read_around(tmp_path: Path) -> None:
    store, truth = CandleStore(tmp_path), walk(6)
    put(store, truth)
    assert put(store, changed(truth, 3, 900)) == (0, 2)
    shelf = shelf_of(store)
    assert everything(store).sha256() == changed(truth, 3, 900).sha256()
    first = shelf.revisions()[0]
    assert (first.close_time_s, first.old, first.seen_s) == (
        int(truth.close_time_s[3]), tuple(truth.ohlcv[3].tolist()), SEEN_S,
    )  # fmt: skip
    assert shelf.candles(after_s=0, until_s=FOREVER, as_of=0).sha256() == truth.sha256()
    assert shelf.candles(after_s=0, until_s=FOREVER, as_of=1).sha256() == changed(truth, 3).sha256()


def test_a_candle_that_appears_where_there_was_none_is_a_revision_and_can_be_read_around(tmp_path: Path) -> None:
    store, truth = CandleStore(tmp_path), walk(7, share=1.0)
    without = truth.take(np.arange(len(truth)) != 500)
    put(store, without)
    assert put(store, truth) == (1, 1)
    assert shelf_of(store).revisions()[0].old is None
    assert shelf_of(store).candles(after_s=0, until_s=FOREVER, as_of=0).sha256() == without.sha256()
    assert everything(store).sha256() == truth.sha256()


@settings(max_examples=15, deadline=None)
@given(changes=st.lists(st.lists(st.integers(0, 299), min_size=1, max_size=4), max_size=5))
def test_as_of_gives_every_state_the_store_ever_had(
    tmp_path_factory: pytest.TempPathFactory, changes: list[list[int]]
) -> None:
    store, state = CandleStore(tmp_path_factory.mktemp("store")), walk(8, n=300, share=1.0)
    states = {0: state.sha256()}
    put(store, state)
    for rows in changes:
        state = changed(state, *rows)
        put(store, state)
        states[len(shelf_of(store).revisions())] = state.sha256()
    seen = {n: shelf_of(store).candles(after_s=0, until_s=FOREVER, as_of=n).sha256() for n in states}
    assert seen == states


# bars ------------------------------------------------------------------------------------------------------------


def test_bars_of_any_range_are_those_of_the_whole_history(tmp_path: Path) -> None:
    """Gaps at the edges are filled from before the range and closed by what comes after it."""
    store = CandleStore(tmp_path)
    parts = {t: walk(k, share=0.6, n=600) for k, t in enumerate(("BTC", "ETH"))}
    for ticker, candles in parts.items():
        put(store, candles, answered=(START_S, START_S + 600 * HOUR), pair=f"{ticker}-USDT")
    import pandas as pd

    table = pd.concat([candles.source_frame(ticker) for ticker, candles in parts.items()])
    whole = bars_from_candles(table, tickers=("ETH", "BTC"), timeframe_s=HOUR)
    pairs = {"ETH": "ETH-USDT", "BTC": "BTC-USDT"}
    rng = np.random.default_rng(1)
    for _ in range(30):
        a, b = sorted(rng.integers(20, 590, 2).tolist())
        span = {"after_s": START_S + a * HOUR, "until_s": START_S + b * HOUR}
        assert store.bars("binance", HOUR, pairs, **span).sha256() == whole.between(*span.values()).sha256()


def test_bars_end_with_the_pair_that_is_furthest_behind(tmp_path: Path) -> None:
    store, truth = CandleStore(tmp_path), walk(9, share=1.0)
    put(store, truth)
    put(store, truth.between(0, START_S + 700 * HOUR), pair="ETH-USDT")
    pairs = {"BTC": "BTC-USDT", "ETH": "ETH-USDT"}
    assert store.bars("binance", HOUR, pairs, after_s=START_S, until_s=FOREVER).last_close_s == START_S + 700 * HOUR
    assert store.bars("binance", HOUR, pairs | {"LTC": "LTC-USDT"}, after_s=START_S, until_s=FOREVER).n_bars == 0


# what is damaged is never read -----------------------------------------------------------------------------------


def rewritten(**columns: object) -> Callable[[Path], None]:
    """The month's file with other columns, as another program would write it."""

    def damage(path: Path) -> None:
        import pandas as pd

        table = pd.read_parquet(path)
        table.assign(**{n: f(table) if callable(f) else f for n, f in columns.items()}).to_parquet(path, index=False)

    return damage


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


def unhashed(edit: Callable[[np.ndarray, np.ndarray], None]) -> Callable[[Path], None]:
    """A well-formed file whose candles break a rule: written by the store's own writer, past its checks."""

    def damage(path: Path) -> None:
        import pandas as pd
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        frame = table.to_pandas()
        times, values = frame["close_time_s"].to_numpy().copy(), frame.to_numpy()[:, 1:].copy()
        edit(times, values)
        names = table.schema.names[1:]
        frame = pd.DataFrame({"close_time_s": times, **dict(zip(names, values.T, strict=True))})
        pq.write_table(pa.Table.from_pandas(frame, schema=table.schema, preserve_index=False), path)

    return damage


def twice(times: np.ndarray, _: np.ndarray) -> None:
    times[5] = times[4]


def inverted(_: np.ndarray, ohlcv: np.ndarray) -> None:
    ohlcv[5, 1] = ohlcv[5, 2] / 2


def another_price(_: np.ndarray, ohlcv: np.ndarray) -> None:
    ohlcv[5, 4] += 1.0


def displaced(path: Path) -> None:
    path.write_bytes(path.with_name("2024-02.parquet").read_bytes())


DAMAGES = {
    "truncated": (truncated, "is damaged"),
    "a flipped bit": (flipped, "is damaged"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged"),
    "missing": (os.unlink, "missing"),
    "two candles for one time": (unhashed(twice), "two candles for one time"),
    "high below low": (unhashed(inverted), "high is below"),
    "a changed volume": (unhashed(another_price), "checksum"),
    "another month": (displaced, "does not belong here"),
    "another schema": (rewritten(note="x"), "columns"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_month_is_refused_by_name_with_the_remedy(tmp_path: Path, kind: str) -> None:
    store, (damage, says) = CandleStore(tmp_path), DAMAGES[kind]
    put(store, walk(10))
    path = shelf_of(store).month_path("2024-01")
    damage(path)
    with pytest.raises(Damaged, match=says) as caught:
        everything(store)
    assert str(path) in str(caught.value) and "cappuccinoctl data repair" in str(caught.value)
    after_s, until_s = month_span("2024-02", timeframe_s=HOUR)
    assert len(shelf_of(store).candles(after_s=after_s, until_s=until_s))  # nothing else is affected


def test_no_single_flipped_bit_changes_what_is_read() -> None:
    """Either the file is refused or the flip was in a byte that says nothing."""
    from features.store.files import read_month

    candles = walk(11, n=100, start_s=month_span("2024-01", timeframe_s=HOUR)[0])
    data, rng = month_bytes(candles), np.random.default_rng(0)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path, refused = Path(folder) / "2024-01.parquet", 0
        for place in rng.integers(0, len(data), 500).tolist():
            broken = bytearray(data)
            broken[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(broken)
            try:
                assert read_month(path, timeframe_s=HOUR).sha256() == candles.sha256()
            except Damaged:
                refused += 1
        assert refused > 400


@pytest.mark.parametrize("name", ["answered.json", "revisions.jsonl"])
def test_a_damaged_list_of_ranges_or_revisions_is_refused_by_name(tmp_path: Path, name: str) -> None:
    store, truth = CandleStore(tmp_path), walk(12)
    put(store, truth)
    put(store, changed(truth, 4, 5))
    path = shelf_of(store).path / name
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    if name == "answered.json":
        path.write_text(json.dumps({"answered": [[10, 5]]}))
    with pytest.raises(Damaged, match=name):
        everything(store)


# ranges and names ------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    ranges=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=8),
    probe=st.tuples(st.integers(0, 50), st.integers(0, 50)),
)
def test_answered_ranges_are_sets_of_bars(ranges: list[tuple[int, int]], probe: tuple[int, int]) -> None:
    spans, known = Spans(), set()
    for a, b in ranges:
        spans, known = spans.including(a, b), known | set(range(a + 1, b + 1))
    a, b = min(probe), max(probe)
    missing = {t for left, right in spans.missing(a, b) for t in range(left + 1, right + 1)}
    assert missing == set(range(a + 1, b + 1)) - known
    assert spans.mask(np.arange(60)).nonzero()[0].tolist() == sorted(known)
    assert spans.known_until(b) == max((t for t in known if t <= b), default=None)


@given(month=st.integers(0, 12 * 80), timeframe_s=st.sampled_from([60, 900, 3600, 14_400, 86_400]))
def test_months_follow_one_another_without_a_hole(month: int, timeframe_s: int) -> None:
    names = [str(np.datetime64("1990-01") + month + k) for k in range(2)]
    (after_s, until_s), (next_s, _) = (month_span(name, timeframe_s=timeframe_s) for name in names)
    assert until_s == next_s
    assert months_of(after_s, until_s, timeframe_s=timeframe_s) == (names[0],)


@pytest.mark.parametrize(("seconds", "text"), [(60, "1m"), (900, "15m"), (3600, "1h"), (86_400, "1d"), (90, "90s")])
def test_timeframes_have_one_name(seconds: int, text: str) -> None:
    assert timeframe_text(seconds) == text and timeframe_of(text) == seconds
