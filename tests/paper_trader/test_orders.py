"""What comes next for an order, decided without doing anything."""

from dataclasses import replace
from decimal import Decimal
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_trader.brokers.base import Absent, Accepted, Deferred, Found, Rejected, Unknown
from paper_trader.journal import Intent, Note
from paper_trader.orders import (
    CLOCK_SLACK_S,
    CancelLate,
    Resend,
    Wait,
    after_look,
    after_post,
    called_off,
    client_order_id,
    intents,
    refused_too_often,
)

ORDER = Intent(
    client_order_id="c", ticker="BTC", close_time_s=0, quantity=Decimal(1), sent_s=1000.0, expires_s=1300.0,
    state="UNKNOWN",
)  # fmt: skip
ALPACA_LATE_S, BINANCE_LATE_S = 0.0, 10.0


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Accepted(order_id="1"), "ACKED"), (Rejected(reason="poor"), "REJECTED"),
        (Deferred(reason="429", retry_after_s=1.0), "INTENT"), (Unknown(reason="hung"), "UNKNOWN"),
    ],
)  # fmt: skip
def test_only_a_proof_ends_a_sending(outcome: object, state: str) -> None:
    assert after_post(ORDER, outcome, again=False).state == state  # type: ignore[arg-type]


def test_a_refusal_of_the_second_sending_does_not_write_off_what_the_first_may_have_done() -> None:
    """A sell that was taken leaves too few coins for its double."""
    note = after_post(ORDER, Rejected(reason="insufficient balance"), again=True)
    assert note.state == "ABANDONED" and "insufficient balance" in note.reason


@pytest.mark.parametrize(
    ("state", "sight", "now_s", "late_s", "then"),
    [
        ("UNKNOWN", Found(order_id="7"), 1001.0, 0.0, Note(client_order_id="c", state="ACKED", order_id="7")),
        ("INTENT", Found(order_id="7"), 9999.0, 0.0, Note(client_order_id="c", state="ACKED", order_id="7")),
        ("UNKNOWN", Unknown(reason="503"), 9999.0, 0.0, Wait()),
        ("UNKNOWN", Absent(), 1001.0, ALPACA_LATE_S, Resend()),  # whichever of the two comes second is refused
        ("UNKNOWN", Absent(), 1009.0, BINANCE_LATE_S, Wait()),  # 9 s after it was sent it may still come
        ("UNKNOWN", Absent(), 1010.0, BINANCE_LATE_S, Resend()),
        ("INTENT", Absent(), 1299.9, 0.0, Resend()),
        ("ABANDONED", Absent(), 1400.0, 0.0, Wait()),
        ("ABANDONED", Unknown(reason="503"), 1400.0, 0.0, Wait()),
    ],
)  # fmt: skip
def test_what_a_look_is_followed_by(state: str, sight: object, now_s: float, late_s: float, then: object) -> None:
    order = replace(ORDER, state=state)
    assert after_look(order, sight, now_s=now_s, sent_s=1000.0, late_s=late_s) == then  # type: ignore[arg-type]


def test_what_is_not_there_and_too_old_is_given_up_and_cancelled_should_it_appear() -> None:
    given_up = after_look(ORDER, Absent(), now_s=1300.0, sent_s=1000.0, late_s=0.0)
    assert isinstance(given_up, Note) and given_up.state == "ABANDONED"
    late = after_look(replace(ORDER, state="ABANDONED"), Found(order_id="7"), now_s=1350.0, sent_s=1000.0, late_s=0.0)
    assert isinstance(late, CancelLate) and late.note.order_id == "7"


SIGHTS = st.sampled_from([Found(order_id="7"), Absent(), Unknown(reason="?")])


@given(
    state=st.sampled_from(["INTENT", "UNKNOWN", "ABANDONED"]), sight=SIGHTS, late_s=st.floats(0.0, 60.0),
    now_s=st.floats(-1e9, 1e10), sent_s=st.floats(0.0, 1e10), expires_s=st.floats(0.0, 1e10),
)  # fmt: skip
def test_nothing_is_sent_again_unless_it_is_absent_in_time_and_cannot_come_any_more(
    state: str, sight: object, late_s: float, now_s: float, sent_s: float, expires_s: float
) -> None:
    order = replace(ORDER, state=state, expires_s=expires_s)
    then = after_look(order, sight, now_s=now_s, sent_s=sent_s, late_s=late_s)  # type: ignore[arg-type]
    if isinstance(then, Resend):
        assert isinstance(sight, Absent) and state != "ABANDONED"
        assert now_s < expires_s and now_s - sent_s >= min(late_s, -CLOCK_SLACK_S) and now_s - sent_s >= late_s
    else:
        assert type(then) in {Note, Wait, CancelLate}


@given(jump_s=st.floats(120.0, 1e9))
def test_a_clock_that_was_put_back_gives_the_order_up_rather_than_send_it_as_if_it_were_new(jump_s: float) -> None:
    then = after_look(ORDER, Absent(), now_s=1000.0 - jump_s, sent_s=1000.0, late_s=10.0)
    assert isinstance(then, Note) and then.state == "ABANDONED"


def test_sells_are_sent_first() -> None:
    made = intents(
        [("A", Decimal(1)), ("B", Decimal(-1)), ("C", Decimal(2)), ("D", Decimal(-2))], account="paper", artifact="x",
        close_time_s=0, sent_s=0.0, expires_s=1.0,
    )  # fmt: skip
    assert [i.ticker for i in made] == ["B", "D", "A", "C"]


def test_every_outcome_and_every_sight_is_spoken_of_above() -> None:
    from paper_trader.brokers import base

    assert set(get_args(base.Outcome)) == {Accepted, Rejected, Deferred, Unknown}
    assert set(get_args(base.Sight)) == {Found, Absent, Unknown}


def test_five_refusals_are_too_many_and_what_there_was_no_money_for_is_none_of_them() -> None:
    unpaid = "Account has insufficient balance for requested action."
    assert refused_too_often(["bad lot"] * 4) == ""
    assert refused_too_often(["bad lot"] * 4 + [unpaid] * 9) == ""
    assert refused_too_often([unpaid] * 9) == ""
    text = refused_too_often(["first", *["bad lot"] * 3, unpaid, "bad price", unpaid])
    assert "5 orders" in text and text.endswith("bad price")
    assert refused_too_often(["insufficient permissions"] * 5) != ""


def test_what_is_called_off_is_watched_and_cancelled_should_it_appear() -> None:
    note = called_off(ORDER)
    assert note.state == "ABANDONED" and note.client_order_id == "c"


def test_an_order_of_another_account_policy_ticker_or_bar_has_another_name() -> None:
    one = {"account": "paper", "artifact": "x", "ticker": "BTC", "close_time_s": 0}
    others = [one | change for change in ({"account": "b"}, {"artifact": "y"}, {"ticker": "E"}, {"close_time_s": 1})]
    assert len({client_order_id(**each) for each in (one, *others)}) == 5  # type: ignore[arg-type]


def test_an_intent_says_what_was_ordered_and_until_when() -> None:
    (made,) = intents(
        [("A", Decimal("-1.5"))], account="paper", artifact="x", close_time_s=3600, sent_s=3605.0, expires_s=3905.0
    )  # fmt: skip
    name = client_order_id(account="paper", artifact="x", ticker="A", close_time_s=3600)
    assert (made.client_order_id, made.ticker, made.close_time_s) == (name, "A", 3600)
    assert (made.quantity, made.sent_s, made.expires_s) == (Decimal("-1.5"), 3605.0, 3905.0)


def test_a_clock_a_little_behind_waits_and_one_a_minute_behind_gives_the_order_up() -> None:
    def then(now_s: float) -> object:
        return after_look(ORDER, Absent(), now_s=now_s, sent_s=1000.0, late_s=10.0)

    assert then(940.0) == then(999.0) == Wait()
    assert isinstance(then(939.0), Note)
