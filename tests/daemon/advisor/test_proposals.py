"""What may be tried: every misfit is refused for its reason, and what is on record can be folded again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated_study import material, trials

from daemon.advisor.analysis import analyse
from daemon.advisor.book import Book
from daemon.advisor.desk import Desk, NoSuchAdvice
from daemon.advisor.proposals import Known, Proposal, configuration, refuse
from daemon.advisor.proposer import proposals
from daemon.advisor.records import Bounds
from daemon.child.advice import Half, Pair, Span, Standing
from daemon.child.clock import ManualClock
from daemon.child.logs import get_logger
from features.errors import DataError

BOUNDS = {
    "rate": Bounds(low=1e-4, high=1e-2, log=True), "width": Bounds(choices=(16, 32)),
    "epochs": Bounds(low=2, high=10, integer=True), "flag": Bounds(choices=(True, False)),
}  # fmt: skip
GOOD: dict[str, Any] = {"rate": 1e-3, "width": 32, "epochs": 4, "flag": True}
KNOWN = Known(
    bounds=BOUNDS, tried={configuration({**GOOD, "epochs": 5})}, subjects=(), adopted={"rate": Span(low=1e-3, high=5e-3)},
    open=[{"epochs": Span(low=2, high=4)}], retired={"loser"}, pairs_left=20, scored={3, 5},
)  # fmt: skip


def enqueue(**values: Any) -> Proposal:
    return Proposal(kind="enqueue", proposer="somebody", hypothesis="h", parameters={**GOOD, **values})


def ranged(kind: Any = "narrow", **ranges: Span) -> Proposal:
    return Proposal(kind=kind, proposer="somebody", hypothesis="h", ranges=ranges)


REFUSED = [
    ("unknown", enqueue(clip=1.0)), ("unknown", enqueue(**{"../../etc/passwd": 1})),
    ("missing", replace(enqueue(), parameters={"rate": 1e-3})), ("type", enqueue(rate="1e-3")),
    ("type", enqueue(rate=float("nan"))), ("type", enqueue(epochs=4.5)), ("type", enqueue(epochs=True)),
    ("type", enqueue(rate=None)), ("range", enqueue(rate=1.0)), ("range", enqueue(epochs=10**60)), ("choice", enqueue(width=24)),
    ("choice", enqueue(width=[32])), ("choice", enqueue(flag=1)), ("choice", enqueue(width=True)),
    ("duplicate", enqueue(epochs=5)), ("duplicate", enqueue(epochs=5.0)), ("retired", replace(enqueue(), proposer="loser")),
    ("empty", ranged()), ("unknown", ranged(clip=Span(low=0, high=1))), ("range", ranged(rate=Span(low=1e-3, high=1.0))),
    ("range", ranged(rate=Span(low=4e-3, high=2e-3))), ("type", ranged(width=Span(low=16, high=32))),
    ("choice", ranged(width=Span(choices=(64,)))), ("conflict", ranged(epochs=Span(low=6, high=8))),
    ("conflict", ranged(rate=Span(low=1e-4, high=2e-4))), ("empty", ranged(width=Span(choices=(16, 32)))),
    ("conflict", ranged("widen", width=Span(choices=(16, 32)))), ("conflict", ranged("widen", rate=Span(low=2e-3, high=9e-3))),
    ("range", ranged("widen", rate=Span(low=1e-5, high=9e-3))),
    ("unknown", Proposal(kind="ensemble", proposer="somebody", hypothesis="h", trials=(3, 4))),
    ("empty", Proposal(kind="ensemble", proposer="somebody", hypothesis="h")),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "proposal"), REFUSED)
def test_every_misfit_is_refused_for_its_reason(reason: str, proposal: Proposal) -> None:
    found = refuse(proposal, KNOWN)
    assert found is not None and (found.reason, len(found.detail) < 300) == (reason, True)


def test_what_fits_is_tried_while_the_share_of_trials_lasts() -> None:
    narrow, wide = ranged(rate=Span(low=2e-3, high=4e-3)), ranged("widen", rate=Span(low=5e-4, high=5e-3))
    assert [refuse(p, KNOWN) for p in (enqueue(), narrow, wide)] == [None] * 3
    short, none = replace(KNOWN, pairs_left=7), replace(KNOWN, pairs_left=0)
    assert refuse(enqueue(), short) is None
    found = [refuse(narrow, short), refuse(enqueue(), none)]
    assert [f and f.reason for f in found] == ["budget", "budget"]
    said = [refuse(p, replace(KNOWN, subjects={p.subject})) for p in (narrow, wide)]
    assert [f and f.reason for f in said] == ["duplicate", "duplicate"]
    assert refuse(Proposal(kind="stop", proposer="somebody", hypothesis="h"), none) is None  # costs no trial


def desk(state_dir: Path, *, target: int = 400) -> Desk:
    return Desk(state_dir=state_dir, study="s", clock=ManualClock(), log=get_logger(), target=target, share=0.5)


def run_pairs(state_dir: Path, proposal: str, wins: int, losses: int) -> list[dict[str, Any]]:
    """Records as trainer and workers leave them, of pairs that the proposal won and lost."""
    records = []
    for k in range(wins + losses):
        halves = (Half(arm="control", parameters={}), Half(arm="proposal", parameters={}))[:: 1 if k % 2 else -1]
        Pair(number=k, proposal=proposal, seed_number=2 * k, halves=halves).write(state_dir, "s")
        for position, half in enumerate(halves):
            score = 0.5 if half.arm == "control" else 1.0 if k < wins else 0.0
            records.append(
                {"number": 2 * k + position, "state": "COMPLETE", "pair": k, "half": position, "score": score}
            )
    return records


def test_a_proven_range_is_adopted_for_all_later_draws_and_a_person_can_take_it_back(tmp_path: Path) -> None:
    at, narrow = desk(tmp_path), ranged(rate=Span(low=2e-3, high=4e-3))
    assert at.propose([narrow], BOUNDS, ()) == [None]
    (source,) = Standing.read(tmp_path, "s").sources
    assert (source.proposal, source.ranges, source.paired) == ("narrow-1", narrow.ranges, True)
    records = run_pairs(tmp_path, "narrow-1", 9, 1)
    assert at.settle(records[:6]) == 3 and at.find("narrow-1").state == "open"
    assert at.settle(records) == 5  # eight of eight decide: what ran on is not counted
    found = at.find("narrow-1")
    assert (found.state, found.by, found.tally.wins, found.tally.losses) == ("adopted", "evidence", 8, 0)
    assert [s.e >= 20 for s in found.tally.path] == [False] * 7 + [True]
    assert found.tally.difference == pytest.approx(0.5)
    assert Standing.read(tmp_path, "s") == Standing(ranges=narrow.ranges)
    assert at.settle(records) == 0
    at.retract("narrow-1", finished=30)
    assert Standing.read(tmp_path, "s") == Standing() and at.find("narrow-1").by == "person"
    with pytest.raises(NoSuchAdvice, match="is retracted"):
        at.retract("narrow-1", finished=30)


def test_losing_advice_is_retracted_by_itself_and_its_proposer_is_not_heard_again(tmp_path: Path) -> None:
    at = desk(tmp_path)
    at.propose([enqueue(epochs=k) for k in (2, 3, 4, 6, 7, 8, 9, 10)], BOUNDS, ())
    assert [s.pairs for s in Standing.read(tmp_path, "s").sources] == [1] * 8
    records = run_pairs(tmp_path, "enqueue-1", 0, 8)
    at.settle(records)
    assert at.find("somebody").state == "retracted" and Standing.read(tmp_path, "s").sources == ()
    (refusal,) = at.propose([enqueue(rate=2e-3)], BOUNDS, ())
    assert refusal is not None and refusal.reason == "retired"
    assert at.book().refused == {("somebody", "retired"): 1}


def test_an_adopted_proposers_configurations_need_no_control_any_more(tmp_path: Path) -> None:
    at = desk(tmp_path)
    at.propose([enqueue()], BOUNDS, ())
    at.settle(run_pairs(tmp_path, "enqueue-1", 8, 0))
    at.propose([enqueue(epochs=9)], BOUNDS, ())
    assert [s.paired for s in Standing.read(tmp_path, "s").sources] == [False, False]


def test_a_stop_is_a_persons_to_adopt_and_ends_the_search_at_what_there_is(tmp_path: Path) -> None:
    at = desk(tmp_path)
    at.propose([Proposal(kind="stop", proposer="advisor", hypothesis="spent")], BOUNDS, ())
    assert at.find("stop-1").state == "for a person" and Standing.read(tmp_path, "s").target is None
    at.adopt("stop-1", finished=57)
    assert Standing.read(tmp_path, "s").target == 57
    at.retract("stop-1", finished=57)
    assert Standing.read(tmp_path, "s").target is None


def test_a_death_between_a_verdict_and_its_announcement_is_made_good_by_the_next_look(tmp_path: Path) -> None:
    at = desk(tmp_path)
    at.propose([ranged(rate=Span(low=2e-3, high=4e-3))], BOUNDS, ())
    records = run_pairs(tmp_path, "narrow-1", 8, 0)
    at.settle(records)
    Standing().write(tmp_path, "s")  # as if it had died before it wrote this
    assert desk(tmp_path).settle(records) == 0
    assert Standing.read(tmp_path, "s").ranges == {"rate": Span(low=2e-3, high=4e-3)}


def test_a_log_that_was_touched_decides_nothing(tmp_path: Path) -> None:
    at = desk(tmp_path)
    at.propose([ranged(rate=Span(low=2e-3, high=4e-3)), enqueue()], BOUNDS, ())
    path = tmp_path / "advice" / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
    with pytest.raises(DataError, match=r"altered, removed or reordered|is missing"):
        at.settle([])


def test_the_advisor_proposes_what_its_findings_say_and_says_nothing_twice(tmp_path: Path) -> None:
    given = material(trials(3, n=400, k=3))
    analysis = analyse(given, np.random.default_rng(0))
    made = proposals(analysis, given.trials, given.bounds, Book())
    kinds = {p.kind: p for p in made}
    assert set(kinds) <= {"narrow", "replicate", "ensemble", "stop"} and "narrow" in kinds
    assert kinds["narrow"].ranges.keys() == {r.name for r in analysis.findings}
    assert (kinds["narrow"].predicted_delta or 0.0) > 0.2
    at = desk(tmp_path)
    assert at.propose(made, given.bounds, given.trials) == [None] * len(made)  # all within the space
    assert proposals(analysis, given.trials, given.bounds, at.book()) == []


def test_a_range_that_cut_off_too_much_is_widened_on_the_side_where_the_best_crowd(tmp_path: Path) -> None:
    given = material(trials(3, n=400, k=3))
    analysis = analyse(given, np.random.default_rng(0))
    at = desk(tmp_path)
    at.propose([ranged(p02=Span(low=0.5, high=0.9))], given.bounds, given.trials)
    at.adopt("narrow-1", finished=100)
    best = {t.number for t in given.trials if (t.score or 0.0) >= analysis.facts.top_low}  # type: ignore[union-attr]
    crowded = [replace(t, parameters={**t.parameters, "p02": 0.89}) if t.number in best else t for t in given.trials]
    made = {p.kind: p for p in proposals(analysis, crowded, given.bounds, at.book())}
    wider = made["widen"].ranges["p02"]
    assert (wider.low, wider.high) == (0.5, 1.0)  # half of .4 more would pass the end of the space
    assert at.propose([made["widen"]], given.bounds, crowded) == [None]
    at.adopt("widen-2", finished=200)
    assert at.book().adopted == {"p02": wider}


def test_proposals_on_trial_make_no_finding_however_often_they_run() -> None:
    """Forty runs of one lucky configuration agree in everything: among the best they would make every parameter matter."""
    noise = trials(11, n=200, k=0)
    best = max(noise, key=lambda t: t.score or 0.0)
    copies = tuple(replace(best, number=200 + k, score=(best.score or 0.0) + 0.01 * k, advised=True) for k in range(40))
    told = analyse(material((*noise, *copies)), np.random.default_rng(0))
    untold = analyse(material((*noise, *(replace(t, advised=False) for t in copies))), np.random.default_rng(0))
    print(
        f"findings among 30 inert parameters: {len(told.findings)}; had the proposals counted, {len(untold.findings)}"
    )
    assert len(told.findings) == 0 and len(untold.findings) > 10
    assert (told.n_advised, told.n_complete) == (40, 240) and told.facts is not None and told.facts.n == 240
