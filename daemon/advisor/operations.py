"""How the machine was used: what ended and how, how fast, how busy, and when it will be over. Pure.

Three numbers that are easily taken for one another are kept apart: how long a trial takes one worker, how often one
ends, and how much of the workers' time went into trials.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from daemon.advisor.records import Machine, Trial

INTERRUPTED = ("stopped", "killed")  # handed back and tried again: neither success nor failure
DAY_S = 86_400.0
DRAWS = 4000
IDLE_BELOW = 0.7  # utilisation
FAILING_SHARE = 0.1
ONE_REASON_SHARE = 0.5
MIN_PER_LEVEL = 8  # trials at a level of concurrency before levels are compared
BUSY_CARD = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Eta:
    """Seconds until so many more trials have ended: median and 90 % interval."""

    remaining: int
    low_s: float
    mid_s: float
    high_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A category of trials without a score. share: of all ended trials, with a 95 % interval (Wilson).

    state: PRUNED of those that were given up on purpose, worse than others; that is no failure.
    """

    category: str
    state: str
    count: int
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Trials that ran beside so many others. per_hour: what so many workers end in an hour at that duration."""

    workers: int
    trials: int
    median_s: float
    per_hour: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """window_s: the stretch that rates and utilisation are taken over. durations: 10, 50, 90 % of completed trials.

    utilisation: trial time over workers × window; worker_s_per_trial: worker time per completed trial, idle included.
    """

    by_state: Mapping[str, int]
    ended: int
    unseen: int
    window_s: float | None
    complete_per_hour: float | None
    ended_per_hour: float | None
    durations_s: tuple[float, float, float] | None
    worker_s_per_trial: float | None
    utilisation: float | None
    eta_complete: Eta | None
    eta_ended: Eta | None
    failures: tuple[Failure, ...]
    levels: tuple[Level, ...]
    gpus: tuple[Mapping[str, Any], ...]
    free_bytes: int | None
    room_trials: int | None
    notes: tuple[str, ...]


def operations(trials: Sequence[Trial], machine: Machine, rng: np.random.Generator) -> Operations:
    """trials: every ended one, in order of number."""
    scored = [t for t in trials if t.score is not None]
    kept = [t for t in trials if t.failure not in INTERRUPTED]
    window = _window(trials, machine)
    inside = [t for t in kept if window and _end(t) is not None and window[0] < (_end(t) or 0.0)]
    inside_scored = [t for t in inside if t.score is not None]
    span = window[1] - window[0] if window else None
    seconds = [t.seconds for t in scored if t.seconds]
    failures = tuple(_failures(trials))
    levels = tuple(_levels(trials))
    room = None
    if machine.free_bytes is not None and machine.bytes_per_trial:
        room = max(0, int((machine.free_bytes - machine.floor_bytes) / machine.bytes_per_trial))
    found = Operations(
        by_state=dict(sorted(Counter(t.state for t in trials).items())), ended=len(trials),
        unseen=max((t.number for t in trials), default=-1) + 1 - len(trials), window_s=span,
        complete_per_hour=_rate(len(inside_scored), span), ended_per_hour=_rate(len(inside), span),
        durations_s=_quantiles(seconds),
        worker_s_per_trial=span * machine.workers / len(inside_scored) if span and inside_scored else None,
        utilisation=_utilisation(trials, window, machine.workers),
        eta_complete=eta(len(inside_scored), span, machine.target - len(scored), rng),
        eta_ended=eta(len(inside), span, machine.target - len(kept), rng),
        failures=failures, levels=levels, gpus=machine.gpus, free_bytes=machine.free_bytes, room_trials=room, notes=(),
    )  # fmt: skip
    return replace(found, notes=tuple(_notes(found, machine)))


def eta(arrived: int, window_s: float | None, remaining: int, rng: np.random.Generator) -> Eta | None:
    """Gamma: `arrived` in `window_s` leaves the rate a Gamma, and `remaining` more arrivals take a Gamma at that rate."""
    if remaining <= 0 or arrived < 2 or not window_s:
        return None
    drawn = window_s * rng.gamma(remaining, size=DRAWS) / rng.gamma(arrived, size=DRAWS)
    low, mid, high = np.quantile(drawn, [0.05, 0.5, 0.95])
    return Eta(remaining=remaining, low_s=float(low), mid_s=float(mid), high_s=float(high))


def wilson(count: int, n: int) -> tuple[float, float]:
    """95 % interval of a share."""
    if n == 0:
        return 0.0, 1.0
    z, share = 1.96, count / n
    centre, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def _end(t: Trial) -> float | None:
    return None if t.began_s is None or t.seconds is None else t.began_s + t.seconds


def _window(trials: Sequence[Trial], machine: Machine) -> tuple[float, float] | None:
    """The last day of the study, or all of it when it is younger; a study at its target ended with its last trial."""
    ends = [e for t in trials if (e := _end(t)) is not None]
    if len(ends) < 2:
        return None
    over = sum(t.failure not in INTERRUPTED for t in trials) >= machine.target
    until = max(ends) if over else max(machine.now_s, *ends)
    return max(until - DAY_S, min(t.began_s for t in trials if t.began_s is not None)), until


def _rate(count: int, span_s: float | None) -> float | None:
    return 3600.0 * count / span_s if span_s else None


def _utilisation(trials: Sequence[Trial], window: tuple[float, float] | None, workers: int) -> float | None:
    """Trials count whole where they end: what runs now is not known yet, as what ran then was not."""
    if window is None or workers == 0 or window[1] <= window[0]:
        return None
    spent = sum(t.seconds or 0.0 for t in trials if window[0] < (_end(t) or 0.0))
    return min(1.0, spent / (workers * (window[1] - window[0])))


def _quantiles(seconds: Sequence[float]) -> tuple[float, float, float] | None:
    if not seconds:
        return None
    low, mid, high = (float(q) for q in np.quantile(np.array(seconds), [0.1, 0.5, 0.9]))
    return low, mid, high


def _failures(trials: Sequence[Trial]) -> list[Failure]:
    counts = Counter((t.failure or t.state.lower(), t.state) for t in trials if t.score is None)
    rows = []
    for (category, state), count in counts.most_common():
        low, high = wilson(count, len(trials))
        share = count / len(trials)
        rows.append(Failure(category=category, state=state, count=count, share=share, low=low, high=high))
    return rows


def _levels(trials: Sequence[Trial]) -> list[Level]:
    """Durations of completed trials by how many trials ran at the trial's middle, itself included."""
    timed = [(t.began_s, t.seconds, t.score is not None) for t in trials if t.began_s is not None and t.seconds]
    if not timed:
        return []
    began, took, done = (np.array(x) for x in zip(*timed, strict=True))
    middle = began + took / 2
    beside = np.searchsorted(np.sort(began), middle, "right") - np.searchsorted(np.sort(began + took), middle, "right")
    rows = []
    for level in np.unique(beside):
        inside = took[(beside == level) & done]
        if level > 0 and len(inside) >= MIN_PER_LEVEL:
            middle_s = float(np.median(inside))
            rows.append(
                Level(workers=int(level), trials=len(inside), median_s=middle_s, per_hour=3600 * int(level) / middle_s)
            )
    return rows


def _notes(found: Operations, machine: Machine) -> list[str]:
    """What is wasted, with the numbers that show it."""
    notes = []
    if (
        found.utilisation is not None
        and found.utilisation < IDLE_BELOW
        and found.worker_s_per_trial
        and found.durations_s
    ):
        notes.append(
            f"The machine is idle: {machine.workers} workers spent {found.utilisation:.0%} of their time in trials. A "
            f"completed trial costs {found.worker_s_per_trial / 60:.3g} worker-minutes and lasts "
            f"{found.durations_s[1] / 60:.3g} min (median): look for waiting workers in `status` and `events`."
        )
    for less, more in zip(found.levels, found.levels[1:], strict=False):
        if more.per_hour <= less.per_hour * 1.05:
            busy = [g for g in machine.gpus if (g.get("utilisation") or 0.0) >= BUSY_CARD]
            card = f"; {busy[0]['name']} is {busy[0]['utilisation']:.0%} busy" if busy else ""
            notes.append(
                f"Worker {more.workers} adds nothing: {less.workers} at a time end {less.per_hour:.1f} trials an hour "
                f"({less.median_s / 60:.3g} min each), {more.workers} end {more.per_hour:.1f} ({more.median_s / 60:.3g} min "
                f"each){card}. `cappuccinoctl scale {less.workers}`."
            )
    # a state is no reason: trials without one are told in the table alone
    broken = [f for f in found.failures if f.state == "FAIL" and f.category not in (*INTERRUPTED, "fail")]
    total = sum(f.count for f in broken)
    if broken and total >= FAILING_SHARE * found.ended and broken[0].count >= ONE_REASON_SHARE * total:
        first = broken[0]
        notes.append(
            f"Trials fail for one reason: {first.count} of {total} failures are `{first.category}`, {first.share:.0%} of all "
            f"ended trials (95 % interval {first.low:.0%} to {first.high:.0%}). `cappuccinoctl logs worker-0` says why."
        )
    if found.room_trials is not None and found.room_trials < machine.target - found.ended:
        notes.append(
            f"The disk holds {found.room_trials} more trials above its floor; {machine.target - found.ended} are to come."
        )
    return notes
