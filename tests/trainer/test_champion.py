"""The champion's pointer: one file, its history, and what a person took down."""

from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.champion import Decision, Pointer


def decided(pointer: Pointer, action: Any, champion: str | None) -> None:
    decision = Decision(
        action=action, champion=champion, holds=champion or "cash", study="s", trial=1, reason="because", gates=()
    )
    pointer.decide(decision, at_utc="2026-01-01T00:00:00Z")


def test_a_verdict_that_changes_nothing_leaves_the_history_alone(tmp_path: Path) -> None:
    pointer = Pointer(tmp_path)
    decided(pointer, "promoted", "a")
    for _ in range(3):
        decided(pointer, "judged", "a")
    record = pointer.read()
    assert record is not None and [e["champion"] for e in record["history"]] == ["a"]


def test_the_previous_champion_is_the_one_below_on_the_stack(tmp_path: Path) -> None:
    pointer = Pointer(tmp_path)
    for name in "abc":
        decided(pointer, "promoted", name)
    decided(pointer, "rolled back", "b")
    assert [e["champion"] for e in pointer.stack()] == ["a", "b"]
    decided(pointer, "demoted", None)
    assert [e["champion"] for e in pointer.stack()] == ["a"]
    assert pointer.taken_down() == {"b", "c"}
    decided(pointer, "promoted", "c")
    assert pointer.taken_down() == {"b"}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", "demote", "roll back"]), max_size=12))
def test_whatever_happened_the_top_of_the_stack_is_the_champion_and_no_champion_is_taken_down(moves: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        pointer = Pointer(Path(folder))
        current: str | None = None
        for move in moves:
            stack = [e["champion"] for e in pointer.stack()]
            below = stack[:-1] if current is not None else stack
            if move == "demote" and current is not None:
                decided(pointer, "demoted", None)
            elif move == "roll back" and below:
                decided(pointer, "rolled back", below[-1])
            elif move in "abc":
                decided(pointer, "promoted", move)
            else:
                continue
            record = pointer.read()
            assert record is not None
            current = record["champion"]
            assert current is None or pointer.stack()[-1]["champion"] == current
            assert current not in pointer.taken_down()
