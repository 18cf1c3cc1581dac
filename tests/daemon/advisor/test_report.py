"""The report as a person reads it: one page that needs nothing but itself, and what changed since the last."""

import json
from dataclasses import asdict, replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from simulated_study import BOUNDS, material, trials

from daemon.advisor.analysis import Analysis, analyse
from daemon.advisor.changes import changes
from daemon.advisor.document import Bullets, Facts, Heading, Table, html, markdown
from daemon.advisor.plots import figures
from daemon.advisor.records import Material
from daemon.advisor.report import blocks, summary
from daemon.advisor.svg import Axis, around, number

DAYS = [0.0, 10.0, 20.0]
EVIDENCE: dict[str, Any] = {
    "n_bars": 8000, "n_sampled": 100, "best": 3, "counts": {"raw": 120.0, "clusters": 4.0}, "years": 0.91, "n_ever": 120,
    "target_annual_sharpe": 1.0, "years_needed": 6.7, "trials_allowed": 3, "trials_left": -117, "chance_annual_sharpe": 2.7,
    "dsr": {"raw": 0.7, "clusters": 0.9}, "dsr_curve": [[1, 0.95], [10, 0.9], [1000, 0.6]], "best_annual_sharpe": 1.1,
    "pbo": 0.31, "pbo_trials": 0.44, "n_kinds": 12, "pbo_persistence": 0.2,
    "pbo_loss": 0.4, "logits": [[-0.5, 0.0, 0.3], [0.0, 0.5, 0.7]],
    "distinct_best": [{"number": n, "score": 3.0} for n in (3, 5, 8)], "distinct_correlation": 0.1,
    "equity": {"candidate": "trial 3", "days": DAYS,
               "wealth": {"trial 3": [1, 1.2, 1.1], "1/N daily": [1, 0.9, 1.05], "cash": [1, 1, 1]},
               "low": [1, 0.9, 0.8], "high": [1, 1.4, 1.6],
               "drawdown": {"trial 3": [0, 0, -0.08], "1/N daily": [0, -0.1, 0], "cash": [0, 0, 0]}},
}  # fmt: skip
JUDGEMENT = {
    "study": "s", "trial": 3, "champion": None, "decided_utc": "2026-01-01T00:00:00+00:00",
    "gates": [{"gate": "G2", "what": "deflated Sharpe <b>", "value": 0.7, "unit": "probability",
               "threshold": "≥ 0.95", "passed": False}],
}  # fmt: skip


def made(seed: int = 1, *, n: int = 300, k: int = 3, **facts: Any) -> tuple[Material, Analysis]:
    given = material(trials(seed, n=n, k=k), **{"evidence": EVIDENCE, "judgement": JUDGEMENT, **facts})
    return given, analyse(given, np.random.default_rng(0))


@pytest.fixture(scope="module")
def page() -> str:
    given, analysis = made()
    report = blocks(
        analysis,
        changes=["Champion: none before"],
        previous_utc="2025-12-31 06:00 UTC",
        drawings=figures(analysis, given),
    )
    return html(report, title="s & t")


class Reader(HTMLParser):
    """Checks nesting and collects what a page would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.forbidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe", "object", "base"):
            self.forbidden.append(tag)
        self.forbidden += [f"{tag} {n}" for n, _ in attrs if n in ("src", "href", "xlink:href") or n.startswith("on")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_one_file_that_fetches_and_runs_nothing(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert reader.open == [] and reader.forbidden == []
    assert "default-src 'none'" in page and "url(" not in page and "@import" not in page
    assert 'name="viewport"' in page


def test_every_figure_is_there_and_well_formed(page: str) -> None:
    drawn = [x.partition("</svg>")[0] for x in page.split("<svg ")[1:]]
    labels = [ET.fromstring("<svg " + d + "</svg>").attrib["aria-label"] for d in drawn]
    for what in (
        "best so far",
        "Importance",
        "parameters, over the rest",
        "against score",
        "Wealth",
        "Drawdown",
        "PBO logits",
        "Deflated",
    ):
        assert any(what in label for label in labels), what
    assert "NaN" not in page and "nan" not in page and "inf" not in page.lower().replace("information", "")


def test_the_page_says_first_what_to_do_next_and_then_what_changed(page: str) -> None:
    headings = (
        "What changed since", "Scores", "Parameters", "The best three", "How far to trust it", "Champion", "The machine",
        "Routes",
    )  # fmt: skip
    places = [page.index(words) for words in ("Next:", *(f"<h2>{h}" for h in headings))]
    assert places == sorted(places)


def test_hostile_names_are_text_in_the_page(page: str) -> None:
    assert "deflated Sharpe &lt;b&gt;" in page and "<title>s &amp; t</title>" in page
    given, analysis = made(n=60)
    odd = replace(analysis, study="<script>alert(1)</script>")
    text = html(blocks(odd, changes=(), previous_utc=None, drawings=figures(odd, given)), title=odd.study)
    assert "<script>" not in text


def test_both_forms_say_the_same_numbers(page: str) -> None:
    _, analysis = made()
    text = markdown(blocks(analysis, changes=(), previous_utc=None, drawings={}))
    for row in analysis.rows:
        assert row.name in text and row.name in page
    assert analysis.facts is not None
    for figure in (
        f"{analysis.facts.best:+.2f}",
        "0.31 over 12 kinds",
        "0.44 over 100 trials",
        "overdrawn by 117",
        "No champion: trial 3 failed G2",
    ):
        assert figure in text and figure in page


def test_a_route_has_a_criterion_and_a_gain_with_its_interval() -> None:
    _, analysis = made()
    assert [r.name for r in analysis.routes] == ["exploit", "broad", "replicate", "ensemble", "stop"]
    assert all(r.criterion and r.action for r in analysis.routes)
    ensemble = next(r for r in analysis.routes if r.name == "ensemble")
    assert ensemble.met and ensemble.gain is not None and "3, 5, 8" in ensemble.action
    text = markdown(blocks(analysis, changes=(), previous_utc=None, drawings={}))
    assert "90 % of outcomes" in text


@pytest.mark.parametrize("n", [0, 1, 3, 45])
def test_a_study_that_has_hardly_begun_has_a_report_too(n: int) -> None:
    given, analysis = made(n=n, evidence=None, judgement=None)
    report = blocks(analysis, changes=(), previous_utc=None, drawings=figures(analysis, given))
    assert "Next: broad" in markdown(report) or n == 45
    Reader().feed(html(report, title="s"))
    assert summary(analysis)
    json.dumps(asdict(analysis), allow_nan=False)


def record(analysis: Analysis) -> dict[str, Any]:
    return json.loads(
        json.dumps({**asdict(analysis), "created_utc": "x", "summary": summary(analysis)}, allow_nan=False)
    )


def test_verdicts_that_changed_alike_are_one_sentence() -> None:
    _, analysis = made()
    now = record(analysis)
    before = {**now, "rows": [{**r, "verdict": "insufficient data"} for r in now["rows"]]}
    told = changes(before, now)
    assert len(told) == len({r["verdict"] for r in now["rows"]})
    assert sum(t.count("`") for t in told) == 2 * len(now["rows"])


def test_what_changed_is_told_and_nothing_else() -> None:
    _, before = made()
    assert changes(record(before), record(before)) == []
    _, later = made(n=350, evidence={**EVIDENCE, "pbo": 0.1}, judgement={**JUDGEMENT, "champion": "abcdef0123456789"})
    told = " ".join(changes(record(before), record(later)))
    assert "+50 trials" in told
    assert "Probability of overfitting: 0.31 before, 0.10 now" in told
    assert "Champion: none before, **abcdef012345** now" in told
    assert changes(record(before), {**record(later), "study": "other"}) == ["Another study: s before, other now"]


def test_a_verdict_that_turns_and_a_parameter_that_goes_are_told() -> None:
    _, before = made(k=1)
    given = material(trials(1, n=300, k=0), {n: b for n, b in BOUNDS.items() if n != "p29"}, evidence=EVIDENCE)
    told = changes(record(before), record(analyse(given, np.random.default_rng(0))))
    assert any(t.startswith("`p00`: ") and "before" in t for t in told)
    assert "No longer searched: p29" in told


def test_what_was_given_up_on_purpose_is_not_called_failed() -> None:
    ran = trials(1, n=60, k=1)
    screened = [replace(t, state="PRUNED", score=None, failure="screened") for t in ran[:20]]
    before, now = (analyse(material(found), np.random.default_rng(0)) for found in (ran[20:], (*screened, *ran[20:])))
    text = markdown(blocks(now, changes=(), previous_utc=None, drawings={}))
    assert "given up: screened" in text and "failed: screened" not in text
    assert "+20 given up as `screened`, 20 now" in changes(record(before), record(now))


def test_blocks_have_both_forms_and_cells_name_their_column() -> None:
    table = Table(head=("name", "a|b"), rows=(("x", "1 < 2"),), strong=frozenset({0}))
    report = [Heading(text="T `c`"), Bullets(items=()), Facts(items=(("k", "**v**"),)), table]
    assert markdown(report) == "## T `c`\n\n- **k**: **v**\n\n| name | a\\|b |\n| --- | --- |\n| x | 1 < 2 |\n"
    text = html(report, title="t")
    assert (
        '<td data-name="a|b">1 &lt; 2</td>' in text
        and "<code>c</code>" in text
        and "<dd><strong>v</strong></dd>" in text
    )


@pytest.mark.parametrize(
    ("low", "high", "log"), [(0, 1, False), (-3.2, 7.9, False), (1e-6, 1e-3, True), (0.24, 0.9, True), (5, 5, False)]
)
def test_ticks_lie_on_their_axis_and_are_few(low: float, high: float, log: bool) -> None:  # noqa: FBT001  a case of the table
    ticks = Axis(low=low, high=high, label="", log=log).ticks()
    assert 1 <= len(ticks) <= 7
    assert all(low * 0.9 - 1e-9 <= t <= high * 1.1 + 1e-9 for t in ticks) or low < 0


def test_axes_hold_their_values_and_numbers_are_short() -> None:
    axis = around([1.0, 2.0], "x")
    assert axis.low < 1.0
    assert axis.high > 2.0
    assert around([3.0], "x").low < 3.0 < around([3.0], "x").high
    assert [number(v) for v in (0, 0.25, 1e-6, 100000, 1250)] == ["0", "0.25", "1e-6", "1e5", "1250"]
