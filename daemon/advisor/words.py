"""How numbers are written: every one with its sign, unit and uncertainty. Pure."""

import math
from collections.abc import Mapping
from typing import Any

from daemon.advisor.operations import Eta
from daemon.advisor.parameters import ParameterRow
from daemon.advisor.routes import Gain
from daemon.advisor.scores import AHEAD, Noise, Tail

NONE = "—"


def places(sd: float | None) -> int:
    """Decimals that show differences between scores with this SD: two, more where the scores are close together."""
    return 2 if not sd or sd >= 0.1 else 2 - math.floor(math.log10(sd))


def signed(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:+.{digits}f}"


def duration(seconds: float | None) -> str:
    """In the largest unit that leaves at least one."""
    if seconds is None:
        return NONE
    for size, unit in ((86_400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def share(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.3g} %"


def without_score(state: str) -> str:
    """What became of trials in that state."""
    return "given up" if state == "PRUNED" else "failed"


def gigabytes(value: float) -> str:
    return f"{value / 1e9:.3g} GB"


def gain(found: Gain | None, digits: int) -> str:
    if found is None:
        return "not estimable"
    if max(abs(found.mean), abs(found.low), abs(found.high)) < 0.5 * 10**-digits:
        return "0"
    mean, low, high = (signed(v, digits) for v in (found.mean, found.low, found.high))
    return f"{mean} (90 % of outcomes {low} … {high})"


def eta(found: Eta | None) -> str:
    if found is None:
        return NONE
    return f"{duration(found.mid_s)} (90 %: {duration(found.low_s)} … {duration(found.high_s)})"


def noise(found: Noise, digits: int) -> str:
    """How much the score of one configuration varies when it is run again."""
    match found.source:
        case "replicates":
            middle, low, high = (f"{v:.{digits}f}" for v in (found.sd, found.low, found.high))
            return f"{middle} (95 %: {low} … {high}), from replicates with {found.degrees} degrees of freedom"
        case "nearest neighbours":
            return f"at most about {found.sd:.{digits}f}, from nearest neighbours: no configuration was run twice"
        case "unknown":
            return "unknown: no configuration was run twice"


def tail(found: Tail | None, digits: int) -> str:
    if found is None:
        return "too few scores to say where the tail ends"
    if found.end is None:
        return f"no end in sight (shape {signed(found.shape)}, {found.exceedances} scores)"
    low = signed(found.low, digits) if found.low is not None else "open"
    high = signed(found.high, digits) if found.high is not None else "open"
    if low == high == signed(found.end, digits):
        return f"at the best score seen: of resamples of the {found.exceedances} scores it is fitted to, 19 in 20 end no higher"
    return f"{signed(found.end, digits)} (90 %: {low} … {high}; {found.exceedances} scores)"


def regret(value: float, digits: int) -> str:
    """How far the best is below the end of the tail, as fitted."""
    shown = f"{value:.{digits}f}"
    return f"{shown} below that end" if float(shown) > 0.0 else "none to be seen: the best score is that end"


def delta(row: ParameterRow) -> str:
    if row.delta is None:
        return NONE
    if row.kind == "choice":
        return f"{row.delta:.2f} ({row.delta_low:.2f} … {row.delta_high:.2f}) of mix"
    return f"{row.delta:+.2f} ({row.delta_low:+.2f} … {row.delta_high:+.2f})"


def probability_of_more(value: float) -> str:
    return f"one of the next {AHEAD} trials is better with probability {value:.2f}, if drawn like those so far"


def counts(evidence: Mapping[str, Any]) -> str:
    """The four ways of counting, least to most lenient as they come."""
    names = {"raw": "every trial ever started", "clusters": "clusters of returns",
             "participation": "participation ratio", "autocorrelation": "autocorrelation of scores"}  # fmt: skip
    dsr = evidence["dsr"]
    return "; ".join(f"{dsr[k]:.2f} for {evidence['counts'][k]:.3g} ({n})" for k, n in names.items() if k in dsr)
