"""What an operator says reaches the trader once, is durable, and leaves a journal that still verifies."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from desk import books, command, opened, trader
from test_recovery import Died, dying

from daemon.child.clock import SystemClock
from paper_trader import operator
from paper_trader.__main__ import main
from paper_trader.journal import Journal
from paper_trader.parity import verify
from paper_trader.session import Command

DAY = 24


def at_bar(n: int, act: Callable[[], object], *, then: Callable[[str], None] = lambda _: None) -> Callable[[str], None]:
    passages = iter(range(100_000))

    def hook(name: str) -> None:
        if name == "bar settled" and next(passages) == n:
            act()
        then(name)

    return hook


def proved(state_dir: Path) -> Journal:
    journal = Journal(state_dir / "paper" / "journal.db", read_only=True)
    assert verify(journal, state_dir / "artifacts").mismatches == ()
    return journal


def say(state_dir: Path, *commands: Command) -> None:
    for c in commands:
        operator.ask(state_dir, c, SystemClock())


def status(state_dir: Path) -> dict:
    record: dict = json.loads((state_dir / "paper" / "status.json").read_bytes())
    return record


def test_paused_bars_are_booked_and_nothing_is_ordered_until_resumed(tmp_path: Path) -> None:
    config = opened(tmp_path)
    trader(config, tmp_path, crash_point=at_bar(50, lambda: say(tmp_path, Command.PAUSE))).run()
    assert status(tmp_path)["state"] == "paused"
    journal = proved(tmp_path)
    assert journal.counts()["marks"] == 201 and journal.counts()["decisions"] == 52  # the opening bar, then 51
    assert max(i.close_time_s for i in journal.intents()) <= journal.decisions()[-1].decision.close_time_s
    journal.close()


def test_flatten_sells_everything_and_stays_out_even_when_the_trader_dies_in_between(tmp_path: Path) -> None:
    config = opened(tmp_path)

    def die(_: str) -> None:
        raise Died

    with pytest.raises(Died):
        trader(config, tmp_path, crash_point=at_bar(60, lambda: (say(tmp_path, Command.FLATTEN), die("")))).run()
    trader(config, tmp_path).run()
    journal = proved(tmp_path)
    _, account = journal.last_mark()
    close = journal.bars().close[-1]
    assert account.weights(close).max() < 0.002  # dust below the venue's minimum
    late = [d for d in journal.decisions() if d.flatten]
    assert len(late) > 100 and all(d.guarded == (0.0, 0.0, 0.0) and any(d.decision.target) for d in late)
    assert all(i.quantity < 0 for i in journal.intents() if i.close_time_s >= late[0].decision.close_time_s)
    journal.close()
    assert status(tmp_path)["state"] == "flattened"


def test_a_halted_account_is_flattened_and_rearmed_while_the_trader_runs(tmp_path: Path) -> None:
    config = opened(tmp_path, risk={"max_drawdown": 0.01})
    hook = at_bar(120, lambda: say(tmp_path, Command.FLATTEN))
    trader(
        config, tmp_path, crash_point=at_bar(150, lambda: say(tmp_path, Command.RESUME, Command.REARM), then=hook)
    ).run()
    journal = proved(tmp_path)
    assert len(journal.rearms()) == 1
    decided = [d.decision.close_time_s for d in journal.decisions()]
    assert max(b - a for a, b in pairwise(decided)) > 3600 * DAY  # it was halted for days
    assert journal.decisions()[-1].flatten is False  # and went on
    journal.close()


def test_a_request_is_taken_up_once_over_any_number_of_restarts(tmp_path: Path) -> None:
    config = opened(tmp_path)
    say(tmp_path, Command.PAUSE, Command.RESUME)
    trader(config, tmp_path).run()
    journal = proved(tmp_path)
    assert journal.meta()["operator_number"] == "2" and journal.counts()["decisions"] == 201
    journal.close()


def test_the_verbs_answer_a_person_and_a_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = opened(tmp_path)
    trader(config, tmp_path).run()
    curves = tmp_path / "curves.html"
    for verb, extra, words in (
        ("paper", (), "equity"), ("positions", (), "weight %"), ("orders", ("--last", "3"), "decided at"),
        ("verify", ("--since", "2021-02-25T00:00:00Z"), "0 mismatches"), ("report", ("--html", str(curves)), "1/N daily"),
        ("drill", ("kill-switch",), "passed"), ("pause", (), "no new decisions"), ("resume", (), "decisions again"),
        ("flatten", (), "everything is sold"), ("rearm", (), "forgotten"),
    ):  # fmt: skip
        argv = [*command(config, tmp_path, verb)[4:], *extra]
        assert main(argv) == 0, verb
        assert words in capsys.readouterr().out, verb
        assert main([*argv, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) is not None
    page = curves.read_text()
    assert page.count("<polyline") == 4 and "http" not in page  # nothing to load
    asked = [json.loads(line)["command"] for line in (tmp_path / "paper" / "operator.jsonl").read_text().splitlines()]
    assert asked == ["pause", "pause", "resume", "resume", "flatten", "flatten", "rearm", "rearm"]


def test_what_verify_since_leaves_out_is_not_proved_and_what_it_takes_is(tmp_path: Path) -> None:
    trader(opened(tmp_path), tmp_path).run()
    middle_s = books(tmp_path)["decisions"][100].decision.close_time_s
    for at_s, found in ((middle_s - 3600, False), (middle_s, True), (middle_s + 3600, True)):
        db = sqlite3.connect(tmp_path / "paper" / "journal.db")
        with db:
            db.execute("UPDATE decisions SET guarded = '[0.0]' WHERE close_time_s = ?", (at_s,))
        journal = Journal(tmp_path / "paper" / "journal.db", read_only=True)
        done = verify(journal, tmp_path / "artifacts", since_s=middle_s)
        assert bool(done.mismatches) is found and done.decisions == 101
        journal.close()
        with db:
            row = (json.dumps(books(tmp_path)["decisions"][99].decision.target), at_s)
            db.execute("UPDATE decisions SET guarded = ? WHERE close_time_s = ?", row)
        db.close()


@pytest.mark.parametrize("stopped_by", ["a pause", "a halt", "a halt that is rearmed"])
def test_what_had_not_left_when_trading_was_stopped_is_not_sent_by_the_next_start(
    stopped_by: str, tmp_path: Path
) -> None:
    """The trader dies between writing an order down and sending it, and hears the operator before it sends."""
    config = opened(tmp_path)
    with pytest.raises(Died):
        trader(config, tmp_path, crash_point=dying("sending", at=0)).run()
    with closing(Journal(tmp_path / "paper" / "journal.db")) as journal:
        left = {i.client_order_id for i in journal.intents("INTENT")}
        if stopped_by != "a pause":
            journal.halt("parity: planted")
    if stopped_by != "a halt":
        say(tmp_path, Command.PAUSE if stopped_by == "a pause" else Command.REARM)
    trader(config, tmp_path).run()
    accepted = {name for name, *_ in books(tmp_path)["orders"]}
    assert left and not left & accepted
    with closing(proved(tmp_path)) as journal:
        assert left == {i.client_order_id for i in journal.intents("ABANDONED")}
