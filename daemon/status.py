"""What the daemon, and who only reads its files, can say about the state of things. Light: no numpy, no structlog."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SCHEMA = 1
STALE_S = 30.0
_ALARMING = ("backoff", "fatal")


def gather(
    state_dir: Path, config: Mapping[str, Any], children: Sequence[Mapping[str, Any]], **daemon: Any
) -> dict[str, Any]:
    """The status record: `daemon` facts and `children` from the supervisor, the rest from the state directory."""
    usage = shutil.disk_usage(state_dir)
    study = config["study"]
    return {
        "schema": SCHEMA,
        "daemon": daemon,
        "children": list(children),
        "study": {"name": study["name"], "target": study["target_trials"], **_trials(state_dir / "trials" / study["name"])},
        "champion": _champion(_read(state_dir / "champion.json")),
        "paper": _read(state_dir / "paper" / "status.json"),
        "advice": _advice(_read(state_dir / "advice" / "latest.json")),
        "disk": {
            "free_bytes": usage.free, "total_bytes": usage.total,
            "below_warning": usage.free < config["janitor"]["warn_free_bytes"],
            "below_floor": (state_dir / "run" / "disk_floor").exists(),
        },
        "state_dir": str(state_dir),
    }  # fmt: skip


def exit_code(status: Mapping[str, Any]) -> int:
    """0 when all is well, 2 when a child is backing off or given up, 3 when the daemon's record is stale, 4 when down."""
    if status["daemon"].get("down"):
        return 4
    if status["daemon"].get("stale"):
        return 3
    return 2 if any(c["state"] in _ALARMING for c in status["children"]) else 0


def render(status: Mapping[str, Any]) -> str:
    """The status for a narrow screen: one fact per line, problems first in each block."""
    daemon = status["daemon"]
    state = "DOWN (last known state)" if daemon.get("down") else ("STALE" if daemon.get("stale") else daemon["state"])
    lines = [
        f"cappuccino  {state}" + ("" if daemon.get("down") else f"  up {span(daemon['up_s'])}  pid {daemon['pid']}")
    ]
    lines += [_child_line(c) for c in status["children"]]
    lines.append(_study_line(status["study"]))
    if best := status["study"].get("best"):
        lines.append(f"best      trial {best['number']}, score {best['score']:+.2f} (t of excess over 1/N)")
    lines.append(_champion_line(status["champion"]))
    lines += _paper_lines(status["paper"])
    if status["advice"]:
        lines.append(f"advice    {status['advice']}")
    disk = status["disk"]
    warning = "  BELOW FLOOR: no new trials" if disk["below_floor"] else ("  low" if disk["below_warning"] else "")
    lines.append(f"disk      {disk['free_bytes'] / 1e9:.1f} GB free of {disk['total_bytes'] / 1e9:.0f} GB{warning}")
    lines.append(f"state     {status['state_dir']}")
    return "\n".join(lines)


def span(seconds: float) -> str:
    """A duration in its two largest units."""
    whole = int(seconds)
    for unit, size, small, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {small}"
    return f"{whole} s"


def _child_line(child: Mapping[str, Any]) -> str:
    parts = [f"{child['name']:<13}{child['state']:<9}"]
    if child["pid"] is not None:
        parts.append(f"pid {child['pid']}")
    if child["state"] == "backoff":
        parts.append(f"next start in {child['next_start_s']:.1f} s")
    if child["restarts"]:
        parts.append(f"{child['restarts']} restarts")
    if child["last_exit"] and child["state"] != "finished":
        parts.append(f"last {child['last_exit']}")
    if child["note"] and child["pid"] is not None:
        parts.append(child["note"])
    return "  ".join(parts)


def _study_line(study: Mapping[str, Any]) -> str:
    text = (
        f"study     {study['name']}: {study['complete']} complete, {study['running']} running, {study['failed']} failed"
    )
    text += f", target {study['target']}"
    if study["median_s"] is not None:
        text += f", median {span(study['median_s'])} per trial"
    return text


def _champion_line(champion: Mapping[str, Any] | None) -> str:
    if champion is None:
        return "champion  none yet: nothing judged"
    if champion["champion"] is None:
        return f"champion  none; the trader holds {champion['holds'][:12]} ({champion['short_reason']})"
    return f"champion  {champion['champion'][:12]} (study {champion['study']}, trial {champion['trial']})"


def _paper_lines(paper: Mapping[str, Any] | None) -> list[str]:
    if paper is None:
        return ["paper     not started"]
    lines = [f"paper     {paper['state']}, last bar {paper.get('last_close_utc') or 'none'}"]
    if paper.get("equity") is not None:
        lines.append(
            f"          equity {paper['equity']:.2f}, {100 * paper['return_since_start']:+.2f} % net since start,"
            f" drawdown {100 * paper['drawdown']:.1f} %"
        )
        lines.append(
            f"          {paper['decisions']} decisions, {paper['fills']} fills, {paper['mismatches']} parity mismatches"
        )
    return lines


def _trials(folder: Path) -> dict[str, Any]:
    records = [r for p in folder.glob("*/trial.json") if (r := _read(p)) is not None]
    scored = [r for r in records if r["state"] == "COMPLETE" and r.get("score") is not None]
    best = max(scored, key=lambda r: r["score"], default=None)
    seconds = sorted(r["seconds"] for r in scored)
    return {
        "complete": len(scored), "running": sum(r["state"] == "RUNNING" for r in records),
        "failed": sum(r["state"] == "FAIL" for r in records),
        "best": None if best is None else {"number": best["number"], "score": best["score"], "artifact": best["artifact"]},
        "median_s": seconds[len(seconds) // 2] if seconds else None,
    }  # fmt: skip


def _champion(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if record is None:
        return None
    failed = [g["gate"] for g in record["gates"] if not g["passed"]]
    short = f"failed {', '.join(dict.fromkeys(failed))}" if failed else record["reason"]
    kept = ("champion", "holds", "study", "trial", "decided_utc", "reason", "gates")
    return {**{k: record[k] for k in kept}, "short_reason": short}


def _advice(record: Mapping[str, Any] | None) -> str | None:
    return None if record is None else str(record.get("summary") or record.get("created_utc") or "")


def _read(path: Path) -> dict[str, Any] | None:
    """A file another process replaces atomically: whole or absent."""
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return record
