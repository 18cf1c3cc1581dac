"""When a candle is final: by the venue's clock, and by what the venue shows beside it."""

from hypothesis import given
from hypothesis import strategies as st

from features.sources.closing import final_until_s

HOUR, GRACE_S = 3600, 20.0
NOW_S = st.floats(min_value=1e9, max_value=2e9)


@given(now_s=NOW_S, newest_bars_ago=st.none() | st.integers(min_value=-3, max_value=500))
def test_no_candle_is_final_before_its_close_by_the_venues_clock(now_s, newest_bars_ago):
    newest_s = None if newest_bars_ago is None else (int(now_s) // HOUR - newest_bars_ago) * HOUR
    final_s = final_until_s(newest_open_s=newest_s, venue_now_s=now_s, timeframe_s=HOUR, grace_s=GRACE_S)
    assert final_s <= now_s
    assert final_s % HOUR == 0


@given(now_s=NOW_S)
def test_a_forming_candle_in_sight_makes_every_closed_one_final(now_s):
    forming_s = int(now_s) // HOUR * HOUR
    assert final_until_s(newest_open_s=forming_s, venue_now_s=now_s, timeframe_s=HOUR, grace_s=GRACE_S) == forming_s


@given(now_s=NOW_S, newest_bars_ago=st.none() | st.integers(min_value=0, max_value=500))
def test_after_the_grace_a_candle_is_final_whatever_follows(now_s, newest_bars_ago):
    newest_s = None if newest_bars_ago is None else (int(now_s) // HOUR - newest_bars_ago) * HOUR
    final_s = final_until_s(newest_open_s=newest_s, venue_now_s=now_s, timeframe_s=HOUR, grace_s=GRACE_S)
    assert now_s - final_s < HOUR + GRACE_S


@given(
    now_s=NOW_S, later_s=st.floats(min_value=0.0, max_value=1e6), newest_bars_ago=st.integers(min_value=0, max_value=9)
)
def test_what_is_final_stays_final(now_s, later_s, newest_bars_ago):
    newest_s = (int(now_s) // HOUR - newest_bars_ago) * HOUR
    before = final_until_s(newest_open_s=newest_s, venue_now_s=now_s, timeframe_s=HOUR, grace_s=GRACE_S)
    after = final_until_s(newest_open_s=newest_s, venue_now_s=now_s + later_s, timeframe_s=HOUR, grace_s=GRACE_S)
    assert after >= before
