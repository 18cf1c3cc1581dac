"""Whatever kills the trader, the account goes on as if nothing had happened."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from desk import BARS, artifact, books, opened, promote, started, trader

from features.errors import CappuccinoError
from paper_trader import anchoring
from paper_trader.journal import Journal
from paper_trader.parity import verify
from paper_trader.shadows import curves

REPLAYED = BARS - 1200


class Died(BaseException):
    """Stands for SIGKILL at one exact line."""


def dying(point: str, *, at: int) -> Callable[[str], None]:
    passages = iter(range(10_000))

    def die(name: str) -> None:
        if name == point and next(passages) == at:
            raise Died

    return die


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    state_dir = tmp_path_factory.mktemp("undisturbed")
    trader(opened(state_dir), state_dir).run()
    return dict(books(state_dir))


def test_the_undisturbed_account_trades_and_verifies(undisturbed: dict, tmp_path: Path) -> None:
    assert undisturbed["counts"]["marks"] == REPLAYED + 1
    assert undisturbed["counts"]["decisions"] == REPLAYED + 1
    assert len(undisturbed["fills"]) > 20  # else the tests below would prove nothing
    assert len({o[0] for o in undisturbed["orders"]}) == len(undisturbed["orders"])


@pytest.mark.parametrize("point", ["begun", "broker settled", "bar settled", "decided", "submitted", "acknowledged"])
def test_a_death_after_any_durable_step_changes_nothing(point: str, tmp_path: Path, undisturbed: dict) -> None:
    """Dies at every 7th passage of the point, is started again each time, and ends with the same books."""
    config = opened(tmp_path)
    deaths = 0
    while True:
        try:
            trader(config, tmp_path, crash_point=dying(point, at=0 if point == "begun" else 7)).run()
        except Died:
            deaths += 1
            assert deaths < 200
            continue
        break
    assert deaths >= (1 if point == "begun" else 2)
    assert dict(books(tmp_path)) == undisturbed


def test_over_an_anchor_of_the_features_deaths_change_nothing_and_every_decision_is_derived_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features begin anew every 70 bars: trader, shadows and proof at the same ones, whenever they were started."""
    monkeypatch.setattr(anchoring, "EVERY_BARS", 70)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for place in (whole, broken):
        place.mkdir()
    trader(opened(whole), whole).run()
    config = opened(broken)
    for at in (68, 0, 1, 69, 500):  # each life counts its own bars
        with contextlib.suppress(Died):
            trader(config, broken, crash_point=dying("bar settled", at=at)).run()
    assert books(broken) == books(whole)
    assert curves_of(broken) == curves_of(whole)
    with contextlib.closing(Journal(whole / "paper" / "journal.db", read_only=True)) as journal:
        assert verify(journal, whole / "artifacts").mismatches == ()


def curves_of(state_dir: Path) -> list[list[float]]:
    return [list(c.equity) for c in curves(state_dir / "paper" / "shadows.db")]


def test_sigkill_of_the_real_process_at_random_moments_loses_no_order_and_doubles_none(
    tmp_path: Path, undisturbed: dict
) -> None:
    config = opened(tmp_path, replay_bars_per_s=40.0)
    rng = np.random.default_rng(8)
    kills = 0
    for _ in range(60):
        process = started(config, tmp_path)
        deadline_s = time.monotonic() + (0.6 + 0.4 * rng.random() if kills < 12 else 60.0)
        while process.poll() is None and time.monotonic() < deadline_s:
            time.sleep(0.005)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        code = process.wait()
        process.stdout.close(), process.stderr.close()  # type: ignore[union-attr]
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert kills >= 10
    assert dict(books(tmp_path)) == undisturbed
    journal = Journal(tmp_path / "paper" / "journal.db", read_only=True)
    assert verify(journal, tmp_path / "artifacts").mismatches == ()
    journal.close()


def test_sigterm_ends_the_trader_after_its_bar_and_the_next_start_goes_on(tmp_path: Path, undisturbed: dict) -> None:
    config = opened(tmp_path, replay_bars_per_s=100.0)
    process = started(config, tmp_path)
    while not (tmp_path / "paper" / "status.json").exists() and process.poll() is None:  # written with its first bar
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    process.stdout.close(), process.stderr.close()  # type: ignore[union-attr]
    trader(config, tmp_path).run()
    assert dict(books(tmp_path)) == undisturbed


def test_a_second_trader_on_the_same_account_is_refused(tmp_path: Path) -> None:
    config = opened(tmp_path, replay_bars_per_s=5.0)
    first = started(config, tmp_path)
    try:
        lock = tmp_path / "run" / "paper_trader.lock"
        while not lock.exists():
            time.sleep(0.02)
        time.sleep(0.3)
        second = started(config, tmp_path)
        _, said = second.communicate(timeout=30)
        assert second.returncode == 1
        assert b"held by another process" in said
    finally:
        first.kill()
        first.communicate()


def test_a_new_champion_is_taken_up_between_two_bars_and_the_account_goes_on(tmp_path: Path) -> None:
    config = opened(tmp_path)
    bars_seen = iter(range(10_000))

    def swap(name: str) -> None:
        if name == "bar settled" and next(bars_seen) == 100:
            promote(tmp_path, artifact(config, seed=2))
            # the pointer's time stamp must differ on any file system
            os.utime(tmp_path / "champion.json", ns=(1, 1))

    trader(config, tmp_path, crash_point=swap).run()
    decided = [d.artifact for d in books(tmp_path)["decisions"]]
    assert len(set(decided)) == 2 and decided == sorted(decided, key=decided.index)  # one change, no going back
    journal = Journal(tmp_path / "paper" / "journal.db", read_only=True)
    assert verify(journal, tmp_path / "artifacts").mismatches == ()
    journal.close()


@pytest.mark.parametrize(("change", "named"), [({"fee_bps": 10.0}, "costs"), ({"half_spread_bps": 9.0}, "costs")])
def test_an_account_begun_with_other_costs_refuses_to_go_on(change: dict, named: str, tmp_path: Path) -> None:
    from dataclasses import replace

    config = opened(tmp_path)
    trader(config, tmp_path).run()
    other = replace(config, costs=replace(config.costs, **change))
    with pytest.raises(CappuccinoError, match=f"other {named}") as caught:
        trader(other, tmp_path).run()
    assert caught.value.exit_code == 78
