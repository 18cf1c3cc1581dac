"""The status drawn for a narrow screen: problems first, one block per question, 60 columns are enough."""

import textwrap
from collections.abc import Callable, Iterator
from typing import Literal

from daemon.status.record import Champion, Child, Disk, Gpu, Level, Paper, Status, Study

Paint = Callable[[str, str], str]
_CODES = {"red": "31", "yellow": "33", "green": "32", "bold": "1", "dim": "2"}
_LEVELS: dict[Level, tuple[str, str]] = {"fail": ("✖", "red"), "warn": ("▲", "yellow"), "info": ("·", "dim")}
_CHILDREN = {
    "running": ("●", "green"), "finished": ("✔", "green"), "stopped": ("○", "dim"), "stopping": ("○", "yellow"),
    "starting": ("○", "yellow"), "draining": ("●", "yellow"), "hung": ("▲", "red"), "backoff": ("▲", "yellow"),
    "down": ("○", "red"),
}  # fmt: skip
_DEGRADED = ("backoff", "hung", "fatal", "unkillable")
Code = Literal[0, 2, 3, 4]


def exit_code(status: Status) -> Code:
    """0 when all is well, 2 when a child is backing off, hung or given up, 3 when the daemon does not answer, 4 when down."""
    if status.daemon.down:
        return 4
    if status.daemon.stale:
        return 3
    return 2 if any(c.state in _DEGRADED for c in status.children) else 0


def render(status: Status, *, width: int = 60, colour: bool = False) -> str:
    """Lines of at most `width` characters, escape codes of the colours not counted."""

    def paint(text: str, code: str) -> str:
        return f"\033[{_CODES[code]}m{text}\033[0m" if colour else text

    lines = [_headline(status, paint)]
    for a in status.alerts:
        mark, code = _LEVELS[a.level]
        lines += [paint(line, code) for line in _wrapped(f"{mark} {a.text}", width)]
        lines += [paint(line, "dim") for line in _wrapped(f"  → {a.remedy}" if a.remedy else "", width)]
    blocks = [
        ("children", [line for c in status.children for line in _child(c, width, paint)]),
        (f"training  {status.study.name}", list(_study(status.study, width, paint))),
        ("champion", list(_champion(status.champion, width))),
        ("paper account", list(_paper(status.paper, width, paint))),
        ("disk", [_disk(d, paint) for d in status.disks]),
        ("gpu", [line for g in status.gpus for line in _gpu(g, width)]),
        ("advice", _wrapped(f"  {status.advice.summary}", width) if status.advice else []),
    ]
    for title, block in blocks:
        if block:
            lines += ["", paint(title, "bold"), *block]
    return "\n".join([*lines, "", paint(f"state in {status.state_dir}", "dim")])


def span(seconds: float) -> str:
    """A duration in its two largest units."""
    whole = int(seconds)
    for unit, size, small, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {small}"
    return f"{whole} s"


def rough(seconds: float) -> str:
    """A duration in its largest sensible unit: for what is only estimated."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _headline(status: Status, paint: Paint) -> str:
    d = status.daemon
    if d.down:
        return f"{paint('cappuccino', 'bold')}  {paint('DOWN (last known state)', 'red')}  {span(d.age_s)} old"
    if d.stale:
        return f"{paint('cappuccino', 'bold')}  {paint('DOES NOT ANSWER', 'red')}  this is {span(d.age_s)} old"
    code = {0: "green", 2: "yellow"}.get(exit_code(status), "yellow")
    return f"{paint('cappuccino', 'bold')}  {paint(d.state, code)}  up {span(d.up_s)}  pid {d.pid}"


def _child(c: Child, width: int, paint: Paint) -> Iterator[str]:
    mark, code = _CHILDREN.get(c.state, ("✖", "red"))
    parts = [f"{mark} {c.name:<13}{c.state:<9}"]
    waits = c.state == "backoff" and c.next_start_s is not None
    parts.append(f"starts in {c.next_start_s:.0f} s" if waits else span(c.for_s))
    if c.restarts:
        parts.append(f"{c.restarts} restart{'s' if c.restarts > 1 else ''}")
    first = "  ".join(parts)
    yield paint(mark, code) + first[1:width]
    if c.note and c.pid is not None:
        yield paint(_cut(f"    {c.note}", width), "dim")
    if c.last_exit and c.state not in ("finished", "stopped", "running"):
        yield _cut(f"    last {c.last_exit}, failures in a row: {c.failures}", width)


def _study(s: Study, width: int, paint: Paint) -> Iterator[str]:
    cells = min(28, width - 20)
    filled = min(cells, round(cells * s.finished / s.target))
    yield f"  {paint('█' * filled, 'green')}{'░' * (cells - filled)} {s.finished} of {s.target}"
    counts = [f"{s.complete} complete", f"{s.running} running", f"{s.failed} failed"]
    if s.given_up:
        counts.append(f"{s.given_up} given up")
    if s.handed_back:
        counts.append(f"{s.handed_back} tried again")
    yield from _wrapped("  " + ", ".join(counts), width)
    p = s.pace
    if p.median_s is not None:
        many = p.per_hour is not None and p.per_hour >= 1000
        rate = "" if p.per_hour is None else f"{p.per_hour:{',.0f' if many else '.3g'}} trials/h, "
        busy = "" if p.busy is None else f", workers {100 * p.busy:.0f} % busy"
        yield from _wrapped(f"  {rate}median {span(p.median_s)}{busy}", width)
    if s.samples_per_s is not None:
        yield f"  {s.samples_per_s:,.0f} account-steps/s"
    if p.eta_s is not None and p.eta_low_s is not None and p.eta_high_s is not None:
        yield f"  done in {rough(p.eta_s)} ({rough(p.eta_low_s)} to {rough(p.eta_high_s)}, 90 %)"
    if s.best is not None:
        yield f"  best: trial {s.best.number}, score {s.best.score:+.2f} (t over 1/N)"
        dsr = "not judged yet" if s.best.dsr is None else f"{s.best.dsr:.2f} (must be {s.best.dsr_threshold})"
        yield f"  its deflated Sharpe: {dsr}"


def _champion(c: Champion | None, width: int) -> list[str]:
    if c is None:
        return ["  none yet: nothing judged"]
    if c.champion is not None:
        where = f"study {c.study}, trial {c.trial}" if c.holds == c.champion and not c.failed_gates else "it stays"
        return _wrapped(f"  {c.champion[:12]} ({where})", width)
    failed = f"failed {', '.join(c.failed_gates)}" if c.failed_gates else c.reason
    return _wrapped(f"  none; the trader holds {c.holds[:12]} ({failed})", width)


def _paper(p: Paper | None, width: int, paint: Paint) -> Iterator[str]:
    if p is None:
        yield "  not started"
        return
    state = paint(p.state, "red" if p.state == "halted" else "green" if p.state == "trading" else "dim")
    if p.equity is None:
        yield f"  {state}"
        return
    yield f"  {state}  equity {p.equity:,.2f}  {100 * p.return_since_start:+.2f} % net"
    yield f"  drawdown {100 * p.drawdown:.1f} %  bar {(p.last_close_utc or 'none')[:16]}"
    if p.decision_age_s is not None:
        yield f"  last decision {span(p.decision_age_s)} ago"
    elif p.last_decision_utc is not None:
        yield f"  last decision at bar {p.last_decision_utc[:16]} (replay)"
    else:
        yield "  no decision yet"
    held = [f"{t} {100 * w:.0f} %" for t, w in p.weights.items() if round(100 * w) != 0]
    yield from _wrapped(f"  holds {', '.join(held) or 'cash alone'}", width)
    differ = paint(f"{p.mismatches} differ", "red") if p.mismatches else "all as trained"
    if p.decisions:
        yield f"  {p.decisions} decisions ({differ}), {p.fills} fills"
    if p.latency_p50_s is not None and p.latency_p99_s is not None:
        yield f"  bar to orders: p50 {1000 * p.latency_p50_s:.0f} ms, p99 {1000 * p.latency_p99_s:.0f} ms"
    others = [f"{name} {100 * change:+.1f} %" for name, change in p.shadows.items()]
    yield from _wrapped(f"  beside it: {', '.join(others)}" if others else "", width)
    if p.drill_age_s is not None:
        yield f"  kill-switch drill {'passed' if p.drill_passed else 'FAILED'} {span(p.drill_age_s)} ago"


def _disk(d: Disk, paint: Paint) -> str:
    text = f"  {d.path}  {d.free_bytes / 1e9:,.1f} GB free of {d.total_bytes / 1e9:,.0f} GB"
    if d.below_floor:
        return text + paint("  BELOW FLOOR", "red")
    return text + (paint("  low", "yellow") if d.below_warning else "")


def _gpu(g: Gpu, width: int) -> list[str]:
    parts = [f"{g.memory_used_bytes / 2**30:.1f} of {g.memory_total_bytes / 2**30:.0f} GiB"]
    parts += [] if g.utilisation is None else [f"{100 * g.utilisation:.0f} % busy"]
    parts += [] if g.temperature_c is None else [f"{g.temperature_c:.0f} °C"]
    return _wrapped(f"  {g.index} {g.name}: {', '.join(parts)}", width)


def _wrapped(text: str, width: int) -> list[str]:
    """`text` over several lines; what follows the first is indented like it, and by two more."""
    indent = " " * (len(text) - len(text.lstrip()))
    return textwrap.wrap(text, width, subsequent_indent=indent + "  ", break_on_hyphens=False, drop_whitespace=True)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
