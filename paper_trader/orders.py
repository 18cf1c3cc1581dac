"""What an order is called and what comes next for it; pure.

The id is derived from what the order is for, so that sending it again is sending the same one. The states:

    INTENT    written down; perhaps sent, perhaps not
    UNKNOWN   sent; the answer did not say whether it was taken
    ACKED     the broker has it
    REJECTED  the broker will not have it
    ABANDONED not found, and when it was to be sent again refused, too old or no longer wanted; watched, and cancelled
              should it appear
    CLOSED    the bar in which it could fill is booked
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import assert_never

from paper_trader.brokers.base import Absent, Accepted, Deferred, Found, Outcome, Rejected, Sight, Unknown
from paper_trader.journal import Intent, Note

_NAMESPACE = uuid.UUID("6a1d9a5e-2f0b-5a43-9c53-0f5c8f7a4c11")  # frozen: changing it could send an order twice
MOST_REFUSED = 5  # orders an hour
UNPAID = "insufficient balance"  # how both venues call it
CLOCK_SLACK_S = 60.0  # a wall clock further back than this has been moved: what was sent cannot be dated any more


def client_order_id(*, account: str, artifact: str, ticker: str, close_time_s: int) -> str:
    """UUIDv5 of account, policy, ticker and bar: 36 characters, the same after any restart."""
    return str(uuid.uuid5(_NAMESPACE, f"{account}|{artifact}|{ticker}|{close_time_s}"))


def intents(
    orders: Sequence[tuple[str, Decimal]], *, account: str, artifact: str, close_time_s: int, sent_s: float,
    expires_s: float,
) -> tuple[Intent, ...]:  # fmt: skip
    """One intent per (ticker, signed quantity), sells first: what they bring pays for the buys."""
    return tuple(
        Intent(
            client_order_id=client_order_id(account=account, artifact=artifact, ticker=t, close_time_s=close_time_s),
            ticker=t, close_time_s=close_time_s, quantity=q, sent_s=sent_s, expires_s=expires_s,
        )
        for t, q in sorted(orders, key=lambda order: order[1] > 0)
    )  # fmt: skip


def after_post(intent: Intent, outcome: Outcome, *, again: bool) -> Note:
    """What one sending has settled. again: it was sent before, and what is refused now may be a double of what was taken."""
    match outcome:
        case Accepted(order_id=order_id):
            return Note(client_order_id=intent.client_order_id, state="ACKED", order_id=order_id)
        case Rejected(reason=reason) if again:
            reason = f"refused when sent again: {reason}"
            return Note(client_order_id=intent.client_order_id, state="ABANDONED", reason=reason)
        case Rejected(reason=reason):
            return Note(client_order_id=intent.client_order_id, state="REJECTED", reason=reason)
        case Deferred(reason=reason):
            return Note(client_order_id=intent.client_order_id, state="INTENT", reason=reason)
        case Unknown(reason=reason):
            return Note(client_order_id=intent.client_order_id, state="UNKNOWN", reason=reason)
        case _:
            assert_never(outcome)


def called_off(intent: Intent) -> Note:
    """Of an order that has not arrived while trading stands still: watched, and cancelled should it appear."""
    reason = "had not arrived when trading was halted or paused"
    return Note(client_order_id=intent.client_order_id, state="ABANDONED", reason=reason)


def refused_too_often(reasons: Sequence[str]) -> str:
    """Why to halt, or "": a broker that refuses so many orders within an hour, for these reasons, is sent something wrong.

    What there was no money for does not count: one sell that did not arrive leaves all the buys of its bar unpaid.
    """
    wrong = [reason for reason in reasons if UNPAID not in reason]
    return (
        f"{len(wrong)} orders were refused within an hour, the last: {wrong[-1]}" if len(wrong) >= MOST_REFUSED else ""
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Look again later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resend:
    """It is not there: the same order, under the same id, once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelLate:
    """It was given up and has appeared after all."""

    note: Note


def after_look(
    intent: Intent, sight: Sight, *, now_s: float, sent_s: float, late_s: float
) -> Note | Wait | Resend | CancelLate:
    """What follows from looking for an order whose fate is open (INTENT, UNKNOWN) or that was given up (ABANDONED).

    sent_s: the latest moment at which it may have been given to the network. late_s: see `Traits`.
    """
    match sight:
        case Found(order_id=order_id):
            note = Note(client_order_id=intent.client_order_id, state="ACKED", order_id=order_id)
            return CancelLate(note=note) if intent.state == "ABANDONED" else note
        case Absent() if intent.state == "ABANDONED":
            return Wait()
        case Absent():
            age_s = now_s - sent_s
            if -CLOCK_SLACK_S <= age_s < late_s:
                return Wait()  # it may be under way, and sending it now could make two
            if now_s >= intent.expires_s or age_s < -CLOCK_SLACK_S:
                reason = "never arrived, and is too old to be sent"
                return Note(client_order_id=intent.client_order_id, state="ABANDONED", reason=reason)
            return Resend()
        case Unknown():
            return Wait()
        case _:
            assert_never(sight)
