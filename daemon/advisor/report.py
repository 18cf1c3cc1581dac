"""The analysis as Markdown: every number with its group, its n and its unit."""

from daemon.advisor.analysis import Analysis, ParameterRow


def summary(analysis: Analysis) -> str:
    """One line for status."""
    if analysis.best is None:
        return f"{analysis.n_complete} complete, {analysis.n_failed} failed: nothing to analyse yet"
    found = [f"{r.name} {r.verdict}" for r in analysis.rows if r.verdict in ("matters", "range too narrow")]
    return f"{analysis.n_complete} trials analysed: " + ("; ".join(found) if found else "no parameter stands out")


def markdown(analysis: Analysis, *, study: str, at_utc: str) -> str:
    lines = [f"# Trials of study {study}, {at_utc}", "", summary(analysis), "", "## Scores", ""]
    lines.append("Score: t-statistic of the per-bar excess log return over 1/N, net of costs. It is not a return.")
    lines.append("")
    if analysis.best is not None:
        best = f"- best {analysis.best:+.2f} (trial {analysis.best_number}), the largest of {analysis.n_complete}"
        lines.append(f"{best}: expect less of it on new data")
        lines.append(f"- median {analysis.median:+.2f}; mean of the top {analysis.top_n}: {analysis.top_mean:+.2f}")
    lines.append(f"- {analysis.n_complete} complete, {analysis.n_failed} failed" + _failures(analysis))
    if analysis.median_seconds is not None:
        lines.append(f"- median duration of a completed trial: {analysis.median_seconds:.0f} s of one worker")
    lines += [
        "",
        f"## Parameters: the top {analysis.top_n} against the other {analysis.n_complete - analysis.top_n}",
        "",
    ]
    lines += [
        "| parameter | median top | median rest | Cliff's delta (95 % interval) | q | edge | verdict |",
        "|---|---|---|---|---|---|---|",
        *(_row(r) for r in analysis.rows),
        "",
        "`no evidence` says that nothing was found, not that the parameter is irrelevant; only `equivalent` says that.",
        "Choices show the commonest value. q is corrected for all parameters together (Benjamini-Hochberg).",
    ]
    return "\n".join(lines) + "\n"


def _row(r: ParameterRow) -> str:
    delta = "—" if r.delta is None else f"{r.delta:+.2f} ({r.delta_low:+.2f} … {r.delta_high:+.2f})"
    q = "—" if r.q is None else f"{r.q:.3f}"
    return f"| {r.name} | {_value(r.top)} | {_value(r.rest)} | {delta} | {q} | {r.edge or '—'} | {r.verdict} |"


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _failures(analysis: Analysis) -> str:
    if not analysis.failures:
        return ""
    return " (" + ", ".join(f"{n} {what}" for what, n in sorted(analysis.failures.items())) + ")"
