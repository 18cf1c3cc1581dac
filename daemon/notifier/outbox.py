"""What is sent when: a token bucket with a digest, pure. A storm becomes a few messages that say how much there was.

Every message is accounted for: it is sent, or counted in a digest ("n more"). Nothing waits unboundedly: beyond
MAX_QUEUE the oldest of the least urgent goes, and is counted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from daemon.notifier.messages import RANK, Message

MAX_QUEUE = 100
SHOWN = 8  # of a digest, worst first; a phone shows about so many lines
RETRY_FIRST_S, RETRY_MAX_S = 30.0, 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """burst: messages at once; per_hour: how fast the right to another one grows back."""

    burst: int
    per_hour: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbox:
    """tokens: messages that may go now. dropped: messages that were too many to be kept, since the last one sent."""

    rate: Rate
    tokens: float
    filled_s: float
    queue: tuple[Message, ...] = ()
    dropped: int = 0
    failures: int = 0
    retry_s: float = float("-inf")


def opened(rate: Rate, *, now_s: float) -> Outbox:
    return Outbox(rate=rate, tokens=float(rate.burst), filled_s=now_s)


def offered(outbox: Outbox, message: Message) -> Outbox:
    queue = (*outbox.queue, message)
    if len(queue) <= MAX_QUEUE:
        return replace(outbox, queue=queue)
    least = min(range(len(queue)), key=lambda i: RANK[queue[i].level])  # the first of the least urgent is the oldest
    return replace(outbox, queue=queue[:least] + queue[least + 1 :], dropped=outbox.dropped + 1)


def due(outbox: Outbox, *, now_s: float) -> tuple[Outbox, Message | None]:
    """The message to send now, if any. The last token is kept for what is of level fail."""
    elapsed_s = max(0.0, now_s - outbox.filled_s)
    tokens = min(float(outbox.rate.burst), outbox.tokens + elapsed_s * outbox.rate.per_hour / 3600)
    outbox = replace(outbox, tokens=tokens, filled_s=now_s)
    if not outbox.queue or now_s < outbox.retry_s:
        return outbox, None
    needed = 1.0 if any(m.level == "fail" for m in outbox.queue) else min(2.0, outbox.rate.burst)
    if tokens < needed:
        return outbox, None
    return outbox, _digest(outbox) if len(outbox.queue) > tokens or outbox.dropped else outbox.queue[0]


def sent(outbox: Outbox, message: Message) -> Outbox:
    """It arrived: a digest took everything with it, a single message itself."""
    left = replace(outbox, tokens=max(0.0, outbox.tokens - 1.0), failures=0, retry_s=float("-inf"))
    if outbox.queue and outbox.queue[0] is message:
        return replace(left, queue=outbox.queue[1:])
    return replace(left, queue=(), dropped=0)


def failed(outbox: Outbox, *, now_s: float) -> Outbox:
    """It did not arrive: everything stays, and is tried again later, less and less often."""
    wait_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(outbox.failures, 10))
    return replace(outbox, failures=outbox.failures + 1, retry_s=now_s + wait_s)


def _digest(outbox: Outbox) -> Message:
    ordered: Sequence[Message] = sorted(outbox.queue, key=lambda m: -RANK[m.level])
    kinds = Counter(f"[{m.level}] {m.title}" for m in ordered)
    lines = [text + (f" (×{n})" if n > 1 else "") for text, n in list(kinds.items())[:SHOWN]]
    hidden = sum(list(kinds.values())[SHOWN:]) + outbox.dropped
    if hidden:
        lines.append(f"{hidden} more: cappuccinoctl logs")
    return Message(level=ordered[0].level, title=f"{len(ordered) + outbox.dropped} events", body="\n".join(lines))
