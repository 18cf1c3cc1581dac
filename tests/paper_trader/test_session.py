"""When the trader may decide."""

from dataclasses import replace

import pytest

from paper_trader.session import (
    BarSettled,
    Command,
    Decide,
    Fault,
    Latch,
    NoBar,
    Phase,
    PolicyLoaded,
    Session,
    Told,
    Wait,
    step,
)

FRESH = BarSettled(age_s=10.0, account_agrees=True)


def trading() -> Session:
    idle = Session(phase=Phase.IDLE, stale_after_s=5400.0, max_clock_offset_s=5.0)
    return step(idle, PolicyLoaded())[0]


def test_a_fresh_bar_is_decided_on_only_when_there_is_a_policy() -> None:
    idle = Session(phase=Phase.IDLE, stale_after_s=5400.0, max_clock_offset_s=5.0)
    assert step(idle, FRESH)[1] == ()
    assert step(trading(), FRESH)[1] == (Decide(),)


@pytest.mark.parametrize(
    ("bar", "words"),
    [
        (replace(FRESH, age_s=5401.0), "90 min old"),
        (replace(FRESH, age_s=float("inf")), "old"),
        (replace(FRESH, age_s=float("nan")), "old"),
        (replace(FRESH, newest=False), "later bars have closed"),
        (replace(FRESH, clock_offset_s=5.1), "+5.1 s off"),
        (replace(FRESH, clock_offset_s=-60.0), "-60.0 s off"),
        (replace(FRESH, clock_offset_s=float("nan")), "off"),
    ],
)
def test_an_old_bar_or_a_clock_that_is_off_is_waited_out_said_once_and_over_by_itself(
    bar: BarSettled, words: str
) -> None:
    state, effects = step(trading(), bar)
    assert isinstance(effects[0], Wait) and len(effects) == 1 and words in state.waiting
    assert step(state, bar)[1] == ()
    state, effects = step(state, FRESH)
    assert effects == (Decide(),) and state.waiting == ""


def test_a_market_that_says_nothing_is_noticed_although_no_bar_ever_comes() -> None:
    state, effects = step(trading(), NoBar(age_s=5400.0))
    assert effects == ()
    state, effects = step(state, NoBar(age_s=5401.0))
    assert effects == (Wait(reason="no bar for 90 min"),)
    assert step(state, NoBar(age_s=9000.0))[1] == ()


@pytest.mark.parametrize(
    "event", [replace(FRESH, account_agrees=False), replace(FRESH, alarm="drawdown"), Fault(reason="parity")]
)
def test_a_halt_is_latched_whatever_comes_after_until_it_is_rearmed(event: BarSettled | Fault) -> None:
    state, effects = step(trading(), event)
    assert isinstance(effects[0], Latch) and state.phase is Phase.HALTED
    for later in (FRESH, PolicyLoaded(), Told(command=Command.RESUME), Told(command=Command.PAUSE)):
        state, effects = step(state, later)
        assert effects == () and state.phase is Phase.HALTED
    state, _ = step(state, Told(command=Command.RESUME))
    state, _ = step(state, Told(command=Command.REARM))
    assert step(state, FRESH)[1] == (Decide(),)


@pytest.mark.parametrize("halting", [replace(FRESH, account_agrees=False), replace(FRESH, alarm="drawdown")])
def test_a_halted_account_whose_bars_come_again_waits_for_none(halting: BarSettled) -> None:
    state, _ = step(step(trading(), halting)[0], NoBar(age_s=9000.0))
    assert "no bar" in state.waiting
    state, effects = step(state, halting)
    assert (state.waiting, effects) == ("", ())


def test_paused_nothing_is_decided_but_a_halt_still_latches() -> None:
    state, _ = step(trading(), Told(command=Command.PAUSE))
    assert step(state, FRESH)[1] == () and state.shown == "paused"
    assert step(state, replace(FRESH, alarm="drawdown"))[0].phase is Phase.HALTED
    assert step(step(state, Told(command=Command.RESUME))[0], FRESH)[1] == (Decide(),)


def test_flatten_decides_in_a_halt_and_through_an_alarm_but_never_on_books_that_differ() -> None:
    halted, _ = step(trading(), Fault(reason="parity"))
    state, _ = step(halted, Told(command=Command.FLATTEN))
    assert step(state, FRESH)[1] == (Decide(),)
    assert step(state, replace(FRESH, alarm="drawdown"))[1] == (Decide(),)
    assert step(state, replace(FRESH, account_agrees=False))[1] == ()
    assert step(state, replace(FRESH, age_s=9000.0))[1] != (Decide(),)


def test_what_an_account_held_at_its_opening_and_cannot_be_sold_without_a_policy_is_said() -> None:
    idle = Session(phase=Phase.IDLE, stale_after_s=5400.0, max_clock_offset_s=5.0)
    state, _ = step(idle, Told(command=Command.FLATTEN))
    assert step(state, FRESH)[1] == ()  # nothing to sell
    state, effects = step(state, replace(FRESH, invested=True))
    assert isinstance(effects[0], Wait) and "no policy" in state.waiting
    state, effects = step(step(state, PolicyLoaded())[0], replace(FRESH, invested=True))
    assert effects == (Decide(),) and state.waiting == ""


def test_what_was_decided_and_has_not_arrived_goes_out_only_while_trading_goes_on() -> None:
    """What has to be sold is still sold."""
    idle = Session(phase=Phase.IDLE, stale_after_s=5400.0, max_clock_offset_s=5.0)
    may = {
        "just started": idle, "trading": trading(), "halted": step(trading(), Fault(reason="parity"))[0],
        "paused": step(trading(), Told(command=Command.PAUSE))[0],
        "flatten": step(trading(), Told(command=Command.FLATTEN))[0],
    }  # fmt: skip
    assert [name for name, s in may.items() if s.may_send(sells=False)] == ["just started", "trading"]
    assert [name for name, s in may.items() if s.may_send(sells=True)] == ["just started", "trading", "flatten"]


def test_one_word_says_what_the_trader_does_and_a_halt_speaks_before_a_pause() -> None:
    paused, flattened = (step(trading(), Told(command=c))[0] for c in (Command.PAUSE, Command.FLATTEN))
    halted, _ = step(paused, Fault(reason="parity"))
    assert [s.shown for s in (trading(), paused, flattened, halted)] == ["trading", "paused", "flattened", "halted"]


def test_the_reason_of_a_halt_is_kept_until_it_is_rearmed() -> None:
    state, _ = step(trading(), Fault(reason="parity"))
    assert state.reason == "parity" and step(state, Fault(reason="another"))[0].reason == "parity"
    assert step(state, Told(command=Command.REARM))[0].reason == ""


def test_a_rearm_before_there_is_a_policy_trades_nothing() -> None:
    idle = Session(phase=Phase.IDLE, stale_after_s=5400.0, max_clock_offset_s=5.0)
    state, _ = step(step(idle, Fault(reason="parity"))[0], Told(command=Command.REARM))
    assert state.phase is Phase.IDLE and step(state, FRESH)[1] == ()
    assert step(step(state, PolicyLoaded())[0], FRESH)[1] == (Decide(),)


def test_a_bar_just_as_old_and_a_clock_just_as_far_off_as_allowed_are_decided_on() -> None:
    for bar in (replace(FRESH, age_s=5400.0), replace(FRESH, clock_offset_s=-5.0), replace(FRESH, clock_offset_s=5.0)):
        assert step(trading(), bar)[1] == (Decide(),)


def test_a_wait_that_goes_on_for_another_reason_is_not_said_again() -> None:
    state, _ = step(trading(), replace(FRESH, age_s=6000.0))
    for bar in (replace(FRESH, age_s=9600.0), replace(FRESH, newest=False), replace(FRESH, clock_offset_s=60.0)):
        state, effects = step(state, bar)
        assert effects == ()


def test_coins_without_a_policy_are_waited_over_only_when_they_are_to_be_sold() -> None:
    idle = Session(phase=Phase.IDLE, stale_after_s=5400.0, max_clock_offset_s=5.0)
    state, effects = step(idle, replace(FRESH, invested=True))
    assert (state.waiting, effects) == ("", ())
