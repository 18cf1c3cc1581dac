"""What a person should know now, and what to do about it: pure, from the rest of the status. Worst first."""

from collections.abc import Iterator, Sequence

from daemon.child.room import TRIAL_DIRECTORIES
from daemon.status.record import Alert, Child, Level, Status

DECISION_LATE_BARS = 2.5  # a bar, its grace, and one that the venue was late with
DRILL_LATE_S = 14 * 86_400.0  # twice its interval
_ORDER: dict[Level, int] = {"fail": 0, "warn": 1, "info": 2}


def alerts(
    status: Status, *, timeframe_s: int, gpu_warn_c: float, gpu_pause_c: float, odd_files: Sequence[str] = ()
) -> tuple[Alert, ...]:
    """The thresholds are those of the configuration: what is alarming is what the service itself acts on.

    odd_files: what could not be understood and is therefore not shown.
    """
    found = [*_children(status), *_paper(status, timeframe_s), *_disks(status), *_gpus(status, gpu_warn_c, gpu_pause_c)]
    found += [
        Alert(
            level="warn", text=f"{name} is damaged or of another version: it is not shown",
            remedy="restart what writes it; cappuccinoctl restore has a copy of what matters",
        )
        for name in odd_files
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda a: _ORDER[a.level]))


def _children(status: Status) -> Iterator[Alert]:
    for c in status.children:
        if c.state == "fatal":
            yield Alert(level="fail", text=f"{c.name} was given up ({c.reason or c.last_exit})", remedy=_look(c))
        elif c.state == "hung":
            yield Alert(level="fail", text=f"{c.name} hangs: {c.silent_s:.0f} s without progress", remedy=_look(c))
        elif c.state == "unkillable":
            yield Alert(level="fail", text=f"{c.name} does not die of SIGKILL", remedy="look at the kernel log; reboot")
        elif c.state == "backoff":
            how = "keeps dying" if c.failures > 1 else "died and starts again"
            yield Alert(level="warn", text=f"{c.name} {how} ({c.last_exit})", remedy=f"cappuccinoctl logs {c.name}")
        elif c.flapping:
            yield Alert(level="warn", text=f"{c.name} is flapping", remedy=f"cappuccinoctl logs {c.name}")


def _look(child: Child) -> str:
    return f"cappuccinoctl logs {child.name}; mend it; cappuccinoctl retry {child.name}"


def _paper(status: Status, timeframe_s: int) -> Iterator[Alert]:
    paper = status.paper
    if paper is None:
        return
    if paper.state == "halted":
        yield Alert(
            level="fail", text=f"the paper account is halted: {paper.reason or 'no reason written'}",
            remedy="cappuccinoctl verify; when you know why: cappuccinoctl rearm",
        )  # fmt: skip
    if paper.mismatches:
        yield Alert(
            level="fail", text=f"{paper.mismatches} decisions differ from the training path",
            remedy="cappuccinoctl verify",
        )  # fmt: skip
    if paper.drill_passed is False:
        yield Alert(
            level="fail",
            text="the kill switch did not fire in its last drill",
            remedy="cappuccinoctl drill kill-switch",
        )
    elif paper.drill_age_s is not None and paper.drill_age_s > DRILL_LATE_S:
        yield Alert(
            level="warn", text="the kill switch has not been drilled for more than a fortnight",
            remedy="cappuccinoctl drill kill-switch",
        )  # fmt: skip
    if paper.losing:
        text = f"the paper account loses against 1/N beyond chance (e-value {paper.loss_evidence:.0f}, {paper.loss_days} days)"
        yield Alert(level="warn", text=text, remedy="cappuccinoctl report")
    if paper.waiting and paper.state in ("trading", "idle"):
        yield Alert(level="warn", text=f"nothing is decided: {paper.waiting}", remedy="cappuccinoctl logs paper_trader")
    late = paper.decision_age_s is not None and paper.decision_age_s > DECISION_LATE_BARS * timeframe_s
    if late and paper.state == "trading":
        yield Alert(level="warn", text="no decision for more than two bars", remedy="cappuccinoctl logs paper_trader")


def _disks(status: Status) -> Iterator[Alert]:
    for d in status.disks:
        if d.below_floor:
            held = "" if set(TRIAL_DIRECTORIES).isdisjoint(d.used_by) else ": no new trials"
            yield Alert(level="fail", text=f"{d.path} is nearly full{held}", remedy="free space; it goes on by itself")
        elif d.below_warning:
            free_gb = d.free_bytes / 1e9
            yield Alert(
                level="warn", text=f"{d.path} has {free_gb:.1f} GB left",
                remedy="cappuccinoctl janitor --dry-run; or lower janitor.warn_free_bytes",
            )  # fmt: skip


def _gpus(status: Status, warn_c: float, pause_c: float) -> Iterator[Alert]:
    for g in status.gpus:
        if g.temperature_c is not None and g.temperature_c >= warn_c:
            hot = g.temperature_c >= pause_c
            text = f"GPU {g.index} is at {g.temperature_c:.0f} °C" + (": no new trials" if hot else "")
            yield Alert(
                level="fail" if hot else "warn", text=text, remedy="check its fans; cappuccinoctl pause rests it"
            )
