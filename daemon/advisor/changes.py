"""What is different from the report before: between two stored analyses. Pure."""

from collections.abc import Mapping
from typing import Any

from daemon.advisor import words

MOVED = 0.05  # a probability that moved less is the same


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Sentences about what changed, the most consequential first. Both in the form of `advice/latest.json`."""
    if before["study"] != now["study"]:
        return [f"Another study: {before['study']} before, {now['study']} now"]
    return [*_route(before, now), *_champion(before, now), *_scores(before, now), *_verdicts(before, now),
            *_trust(before, now), *_operations(before, now)]  # fmt: skip


def _route(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    was, is_now = (next(r["name"] for r in a["routes"] if r["recommended"]) for a in (before, now))
    return [] if was == is_now else [f"Recommended route: {was} before, **{is_now}** now"]


def _champion(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    was, is_now = ((a["judgement"] or {}).get("champion") for a in (before, now))
    if was == is_now:
        return []
    return [f"Champion: {was[:12] if was else 'none'} before, **{is_now[:12] if is_now else 'none'}** now"]


def _scores(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    made = []
    if more := now["n_complete"] - before["n_complete"]:
        made.append(f"{more:+d} trials with a score, {now['n_complete']} now")
    was, is_now = before["facts"], now["facts"]
    if was and is_now and (was["best"], was["best_number"]) != (is_now["best"], is_now["best_number"]):
        d = words.places(is_now["sd"])
        old, new, old_worth, new_worth = (words.signed(a[k], d) for k in ("best", "shrunken") for a in (was, is_now))
        worth = f"; worth {old_worth} before, {new_worth} now" if was["shrunken"] is not None else ""
        old, new = (f"{v} (trial {a['best_number']})" for v, a in ((old, was), (f"**{new}**", is_now)))
        made.append(f"Best score {old} before, {new} now{worth}")
    return made


def _verdicts(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    was = {r["name"]: r["verdict"] for r in before["rows"]}
    moved = [(r["name"], was.get(r["name"], "not searched"), r["verdict"]) for r in now["rows"]]
    gone = sorted(set(was) - {r["name"] for r in now["rows"]})
    names: dict[tuple[str, str], list[str]] = {}
    for name, old, new in moved:
        if old != new:
            names.setdefault((old, new), []).append(f"`{name}`")
    made = [f"{', '.join(group)}: {old} before, **{new}** now" for (old, new), group in names.items()]
    return [*made, *([f"No longer searched: {', '.join(gone)}"] if gone else [])]


def _trust(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    was, is_now = before["evidence"] or {}, now["evidence"] or {}
    made = []
    old, new = was.get("pbo"), is_now.get("pbo")
    if old is not None and new is not None and abs(old - new) >= MOVED:
        made.append(f"Probability of overfitting: {old:.2f} before, {new:.2f} now")
    old, new = (e.get("dsr", {}).get("raw") for e in (was, is_now))
    if old is not None and new is not None and abs(old - new) >= MOVED:
        made.append(f"Deflated Sharpe ratio over every trial: {old:.2f} before, {new:.2f} now")
    return made


def _operations(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    made = []
    old, new = (a["operations"]["utilisation"] for a in (before, now))
    if old is not None and new is not None and abs(old - new) >= 2 * MOVED:
        made.append(f"Utilisation of the workers: {old:.0%} before, {new:.0%} now")
    was = {f["category"]: f["count"] for f in before["operations"]["failures"]}
    for f in now["operations"]["failures"]:
        if more := f["count"] - was.get(f["category"], 0):
            made.append(f"{more:+d} {words.without_score(f['state'])} as `{f['category']}`, {f['count']} now")
    return made
