"""A judgement as it is kept and read again."""

from pathlib import Path

from features.files import read_json
from trainer.gates import Gate
from trainer.judgement import Judgement, Verdict, shown, verdicts_on_record, write_report
from trainer.report import Report

GATES = ("G1", "G2", "G3", "G4", "G5", "G6", "G7")


def gate(name: str, *, passed: bool = True, value: float | None = 0.0371) -> Gate:
    return Gate(gate=name, what=f"what {name} is", value=value, unit="p", threshold="< 0.1", passed=passed)


def verdict(number: int, gates: tuple[Gate, ...]) -> Verdict:
    name = f"trial {number}"
    report = Report(
        candidate=name, n_seeds=1, n_folds=2, fixed_baseline="x", fee_bps=10.0, costs=(), against=(), regimes=()
    )  # fmt: skip
    return Verdict(candidate=name, trials=(number,), artifact=f"a{number}", gates=gates, validation=(), report=report)


def judgement(*verdicts: Verdict) -> Judgement:
    return Judgement(study="s", trial=1, artifact="a1", champion=None, holds="b", reason="because", verdicts=verdicts)


def test_a_candidate_on_record_has_passed_only_with_all_seven_gates_measured_and_none_failed(tmp_path: Path) -> None:
    all_seven = [gate(g) for g in GATES]
    cases = {0: tuple(all_seven), 8: (*all_seven, gate("G5"), gate("G5", passed=False))}
    for i in range(7):
        cases[i + 1] = tuple(all_seven[:i] + all_seven[i + 1 :])  # one was not measured
        cases[i + 11] = (*all_seven[:i], gate(GATES[i], passed=False), *all_seven[i + 1 :])
    cases[21] = (*all_seven, gate("G8"))  # of a later version, and passed
    write_report(tmp_path, judgement(*(verdict(n, g) for n, g in cases.items())), at_utc="then")
    assert [v["trials"][0] for v in verdicts_on_record(tmp_path) if v["passed"]] == [0, 21]


def test_reports_are_numbered_on_from_the_last_one_that_is_left_and_read_newest_first(tmp_path: Path) -> None:
    for number in range(3):
        write_report(tmp_path, judgement(verdict(number, ())), at_utc="then")
    for form in ("json", "txt"):
        (tmp_path / "reports" / f"judgement-0001.{form}").unlink()
    write_report(tmp_path, judgement(verdict(3, ())), at_utc="now")
    found = verdicts_on_record(tmp_path)
    assert [(v["trials"], v["study"], v["report"]) for v in found] == [
        ([3], "s", "judgement-0004.json"), ([2], "s", "judgement-0003.json"), ([1], "s", "judgement-0002.json"),
    ]  # fmt: skip
    assert read_json(tmp_path / "reports" / "judgement-0004.json")["judged_utc"] == "now"


def test_the_first_candidate_decides_and_what_it_failed_is_named() -> None:
    first, second = verdict(1, (gate("G1"), gate("G2", passed=False))), verdict(2, (gate("G3"),))
    assert judgement(first, second).gates == first.gates and judgement().gates == ()
    assert first.failed == (gate("G2", passed=False),)
    assert shown(first.failed) == "G2 what G2 is: 0.0371, required < 0.1"
    assert shown([gate("G4", value=None)]) == "G4 what G4 is: not estimable"


def test_a_holdout_is_spoken_of_only_where_it_was_opened() -> None:
    assert "opened once" not in judgement(verdict(1, (gate("G1"),))).text()
