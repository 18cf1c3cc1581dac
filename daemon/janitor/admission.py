"""How many workers a graphics card has room for, and whether it is cool enough for more: pure, one step per reading.

A worker needs what workers were measured to need at their peak. Nothing has been measured at first: one worker goes
ahead, and its first trial tells. A worker that is not admitted finishes its trial and waits before the next one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from daemon.gpu import GpuReading


@dataclass(frozen=True, slots=True, kw_only=True)
class CardLimits:
    """Temperatures in °C: warn < pause; a paused card starts again below `warn`. Utilisation: share, 0 to 1."""

    reserve_bytes: int
    warn_c: float
    pause_c: float
    busy_utilisation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """Our workers on one card. holding: how many have memory there now. peak_bytes: the largest need yet measured."""

    holding: int
    peak_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """workers: how many may begin trials there now. why: what keeps further ones out, for people."""

    index: int
    name: str
    workers: int
    paused: bool
    warm: bool
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """One verdict per card, by index. No card: nothing to admit to."""

    cards: Mapping[int, Card] = field(default_factory=dict)


def step(state: Admission, readings: Sequence[GpuReading], users: Mapping[int, Users], limits: CardLimits) -> Admission:
    """A card that stops answering keeps nothing: it comes back as a new one."""
    nobody = Users(holding=0, peak_bytes=None)
    return Admission(
        cards={r.index: _card(state.cards.get(r.index), r, users.get(r.index, nobody), limits) for r in readings}
    )


def _card(before: Card | None, reading: GpuReading, users: Users, limits: CardLimits) -> Card:
    celsius = reading.temperature_c
    warm = celsius is not None and celsius >= limits.warn_c
    paused = celsius is not None and (
        celsius >= limits.pause_c or (before is not None and before.paused and celsius >= limits.warn_c)
    )
    workers, why = _room(reading, users, limits)
    if paused:
        workers, why = 0, f"{celsius:.0f} °C, begins again below {limits.warn_c:.0f} °C"
    elif workers > users.holding and reading.utilisation is not None and reading.utilisation >= limits.busy_utilisation:
        # one more would only slow the others down; those that are there go on
        workers, why = users.holding, f"busy: {reading.utilisation:.0%} of the last second"
    return Card(index=reading.index, name=reading.name, workers=workers, paused=paused, warm=warm, why=why)


def _room(reading: GpuReading, users: Users, limits: CardLimits) -> tuple[int, str]:
    free_bytes = reading.memory_total_bytes - reading.memory_used_bytes - limits.reserve_bytes
    if users.peak_bytes is None:
        if users.holding:
            return users.holding, "waiting for the first measurement of a trial"
        return (1, "one worker measures first") if free_bytes > 0 else (0, "no free memory beyond the reserve")
    further = math.floor(free_bytes / max(users.peak_bytes, 1))  # negative: others have moved in
    workers = max(0, users.holding + further)
    return workers, f"memory for {workers} workers of {users.peak_bytes / 1e9:.1f} GB each"
