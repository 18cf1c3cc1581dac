"""How fast trials end, and when the study will be over: pure arithmetic on durations.

Three numbers that are easily taken for one another are kept apart: how long a trial takes, how many end in an hour,
and how much of the workers' time went into trials.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from daemon.status.record import Pace

Z_90 = 1.6449  # two-sided 90 % of a normal
MIN_WINDOW_S = 3600.0
WINDOW_TRIALS = 6.0  # the window holds a few trials, however long one takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A trial that ran to its end, well or badly. at_s: UTC epoch seconds."""

    at_s: float
    took_s: float


def pace(
    ended: Sequence[Ended], *, running_for_s: Sequence[float], remaining: int, workers: int, now_s: float
) -> Pace:  # fmt: skip
    """remaining: trials that have not ended, the running ones included. No rate and no estimate from fewer than two trials."""
    if not ended:
        return Pace()
    took = [e.took_s for e in ended]
    middle_s = median(took)
    since_s = max(now_s - max(MIN_WINDOW_S, WINDOW_TRIALS * middle_s), min(e.at_s - e.took_s for e in ended))
    window_s = max(now_s - since_s, 1.0)
    inside = [e for e in ended if e.at_s > since_s]
    in_trials_s = sum(min(e.took_s, e.at_s - since_s) for e in inside) + sum(min(r, window_s) for r in running_for_s)
    low_s, eta_s, high_s = _eta(took, running_for_s=running_for_s, remaining=remaining, workers=workers)
    return Pace(
        median_s=middle_s, per_hour=round(3600 * len(inside) / window_s, 2) if len(ended) > 1 else None,
        busy=round(min(1.0, in_trials_s / (workers * window_s)), 3) if workers else None,
        eta_low_s=low_s, eta_s=eta_s, eta_high_s=high_s,
    )  # fmt: skip


def _eta(
    took_s: Sequence[float], *, running_for_s: Sequence[float], remaining: int, workers: int
) -> tuple[float | None, float | None, float | None]:
    """(low, middle, high) seconds: the makespan of mean-length trials on the workers, and a 90 % interval around it.

    The spread is that of a sum of m further trials, plus that of the mean they are taken from: m·s² + m²·s²/n.
    """
    if remaining <= 0 or workers <= 0 or len(took_s) < 2:
        return None, None, None
    mean_s, spread_s = fmean(took_s), stdev(took_s)
    busy_until_s = [max(mean_s - r, 0.0) for r in running_for_s[:workers]]
    free_at_s = busy_until_s + [0.0] * (workers - len(busy_until_s))
    end_s = max(busy_until_s, default=0.0)
    heapq.heapify(free_at_s)
    for _ in range(remaining - len(busy_until_s)):
        done_s = heapq.heappop(free_at_s) + mean_s
        end_s = max(end_s, done_s)
        heapq.heappush(free_at_s, done_s)
    half_s = Z_90 * math.sqrt(remaining * spread_s**2 + remaining**2 * spread_s**2 / len(took_s)) / workers
    return round(max(0.0, end_s - half_s), 1), round(end_s, 1), round(end_s + half_s, 1)
