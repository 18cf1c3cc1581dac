"""What is sent when: storms become digests, nothing is lost without being counted, urgent things come through."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.notifier import outbox as box
from daemon.notifier.messages import Message, message_of
from daemon.notifier.outbox import MAX_QUEUE, RETRY_MAX_S, Rate

RATE = Rate(burst=3, per_hour=60.0)  # one a minute
LEVELS = ("info", "warn", "fail")


def said(message: Message) -> int:
    """How many events a message speaks of."""
    found = re.fullmatch(r"(\d+) events", message.title)
    return int(found[1]) if found else 1


@given(
    st.lists(
        st.tuples(st.floats(0, 200), st.integers(0, 40), st.sampled_from(LEVELS), st.booleans()),
        min_size=1,
        max_size=60,
    )
)
@settings(max_examples=300)
def test_every_event_is_told_or_counted_and_never_more_messages_go_than_the_rate_allows(
    steps: list[tuple[float, int, str, bool]],
) -> None:
    """steps: (seconds until, events that happen, their level, whether the service answers)."""
    now_s, outbox, offered, told, times = 0.0, box.opened(RATE, now_s=0.0), 0, 0, list[float]()
    for wait_s, events, level, answers in [*steps, *[(200.0, 0, "info", True)] * 12]:
        now_s += wait_s
        for k in range(events):
            outbox = box.offered(outbox, Message(level=level, title=f"{level} {k}"))  # type: ignore[arg-type]
        offered += events
        outbox, message = box.due(outbox, now_s=now_s)
        if message is None:
            continue
        if answers:
            outbox, told = box.sent(outbox, message), told + said(message)
            times.append(now_s)
        else:
            outbox = box.failed(outbox, now_s=now_s)
        assert len(outbox.queue) <= MAX_QUEUE
    assert told == offered and not outbox.queue and not outbox.dropped
    for i, first_s in enumerate(times):
        for j in range(i, len(times)):
            assert j - i + 1 <= RATE.burst + (times[j] - first_s) * RATE.per_hour / 3600 + 1e-6


def test_a_storm_is_a_few_messages_and_a_digest_with_the_worst_first() -> None:
    outbox = box.opened(RATE, now_s=0.0)
    for k in range(250):
        outbox = box.offered(outbox, Message(level="warn", title=f"worker-{k % 2} hung"))
    outbox = box.offered(outbox, Message(level="fail", title="trader given up"))
    outbox, digest = box.due(outbox, now_s=0.0)
    assert digest is not None and digest.title == "251 events" and digest.level == "fail"
    first, *rest = digest.body.splitlines()
    assert first == "[fail] trader given up" and rest[0].startswith("[warn] worker-") and "(×50)" in rest[0]
    assert rest[-1] == f"{251 - MAX_QUEUE} more: cappuccinoctl logs"
    assert box.due(box.sent(outbox, digest), now_s=0.0)[1] is None


def test_the_last_token_is_kept_for_what_needs_a_person() -> None:
    outbox = box.opened(RATE, now_s=0.0)
    for k in range(2):
        outbox, message = box.due(box.offered(outbox, Message(level="info", title=str(k))), now_s=0.0)
        assert message is not None
        outbox = box.sent(outbox, message)
    outbox, message = box.due(box.offered(outbox, Message(level="info", title="chatter")), now_s=0.0)
    assert message is None
    outbox, message = box.due(box.offered(outbox, Message(level="fail", title="halted")), now_s=0.0)
    assert message is not None and message.level == "fail" and "chatter" in message.body


def test_a_service_that_does_not_answer_is_asked_less_and_less_often_and_never_given_up() -> None:
    outbox, now_s, waits = box.offered(box.opened(RATE, now_s=0.0), Message(level="fail", title="x")), 0.0, []
    for _ in range(2000):
        outbox = box.failed(outbox, now_s=now_s)
        waits.append(outbox.retry_s - now_s)
        now_s = outbox.retry_s
        outbox, message = box.due(outbox, now_s=now_s)
        assert message is not None
    assert waits[:4] == [30, 60, 120, 240] and max(waits) == RETRY_MAX_S


def test_a_clock_that_steps_back_gives_no_tokens() -> None:
    outbox = box.opened(RATE, now_s=1000.0)
    outbox, _ = box.due(box.offered(outbox, Message(level="info", title="x")), now_s=-1e9)
    assert outbox.tokens == RATE.burst


def test_the_events_a_person_cares_about_have_words_and_the_others_are_silent() -> None:
    fatal = message_of({"event": "child.fatal", "name": "worker-0", "reason": "exit 78", "code": 78})
    assert fatal is not None and fatal.level == "fail" and fatal.title == "worker-0 was given up (exit 78)"
    halted = message_of({"event": "trader.halted", "reason": "drawdown"})
    assert halted is not None and "cappuccinoctl rearm" in halted.body
    floor = message_of({"event": "janitor.disk", "disk": ".", "space": "floor", "free_bytes": 1_500_000_000})
    assert floor is not None and floor.level == "fail" and "1.5 GB" in floor.title
    assert (message_of({"event": "judge.ended", "champion": "ab"}) or fatal).level == "info"
    assert message_of({"event": "trial.ended"}) is None and message_of({"text": 1}) is None
