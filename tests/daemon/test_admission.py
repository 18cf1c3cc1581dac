"""Who may begin a trial: memory measured, heat with hysteresis, and what a worker reads of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from daemon.child.clock import ManualClock
from daemon.child.config import parse
from daemon.child.holds import GPU, hold_reason, read_usages, write_usage
from daemon.child.logs import get_logger
from daemon.gpu import GpuReading
from daemon.janitor import cards as cards_module
from daemon.janitor.admission import Admission, CardLimits, Users, step
from daemon.janitor.cards import Cards
from features.files import write_atomic

GB = 10**9
LIMITS = CardLimits(reserve_bytes=GB, warn_c=80.0, pause_c=85.0, busy_utilisation=0.95)


def card(used_gb: float = 1.0, *, celsius: float | None = 50.0, busy: float | None = 0.3, index: int = 0) -> GpuReading:
    return GpuReading(
        index=index, name="a card", memory_total_bytes=24 * GB, memory_used_bytes=int(used_gb * GB), utilisation=busy,
        temperature_c=celsius,
    )  # fmt: skip


def admitted(reading: GpuReading, *, holding: int, peak_gb: float | None) -> int:
    users = Users(holding=holding, peak_bytes=None if peak_gb is None else int(peak_gb * GB))
    return step(Admission(), [reading], {0: users}, LIMITS).cards[0].workers


def test_one_worker_measures_what_a_trial_needs_before_any_other_begins() -> None:
    assert admitted(card(1.0), holding=0, peak_gb=None) == 1
    assert admitted(card(6.0), holding=1, peak_gb=None) == 1
    assert admitted(card(23.5), holding=0, peak_gb=None) == 0


@pytest.mark.parametrize(
    ("used_gb", "holding", "peak_gb", "workers"),
    [
        (1.0, 0, 5.0, 4),   # 24 - 1 used - 1 reserve = 22 free: 4 x 5
        (6.0, 1, 5.0, 4),   # one is in: 17 free, 3 more
        (21.0, 4, 5.0, 4),  # full: nobody more, and nobody less
        (24.0, 3, 5.0, 2),  # 9 GB belong to others: one of ours must wait
        (23.5, 0, 5.0, 0),  # others have it all
    ],
)  # fmt: skip
def test_as_many_workers_as_their_measured_peaks_fit_beside_the_reserve(
    used_gb: float, holding: int, peak_gb: float, workers: int
) -> None:
    assert admitted(card(used_gb), holding=holding, peak_gb=peak_gb) == workers


def test_whoever_fills_the_card_step_by_step_never_gets_past_its_memory_and_settles() -> None:
    rng = np.random.default_rng(5)
    for _ in range(500):
        peak, others = float(rng.uniform(0.3, 12.0)), float(rng.uniform(0.0, 20.0))
        holding, state, history = 0, Admission(), []
        for _ in range(100):
            users = Users(holding=holding, peak_bytes=int(peak * GB))
            state = step(state, [card(others + holding * peak)], {0: users}, LIMITS)
            holding += holding < state.cards[0].workers  # one more begins its first trial
            history.append(state.cards[0].workers)
        assert others + holding * peak + 1.0 <= 24.0 or holding == 0
        assert len(set(history[-20:])) == 1
        assert others + (holding + 1) * peak + 1.0 > 24.0 - 1e-6  # and nothing is left unused


def test_a_hot_card_pauses_at_85_and_begins_again_only_below_80() -> None:
    users, state, seen = {0: Users(holding=1, peak_bytes=GB)}, Admission(), []
    for celsius in (70, 79, 80, 84, 85, 84, 80, 79, 84, 85):
        state = step(state, [card(celsius=float(celsius))], users, LIMITS)
        seen.append((state.cards[0].warm, state.cards[0].workers > 0))
    ok, warm, paused = (False, True), (True, True), (True, False)
    assert seen == [ok, ok, warm, warm, paused, paused, paused, ok, warm, paused]
    assert "85 °C" in state.cards[0].why


def test_a_busy_card_takes_nobody_more_and_sends_nobody_away() -> None:
    assert admitted(card(6.0, busy=0.99), holding=1, peak_gb=5.0) == 1
    assert admitted(card(24.0, busy=0.99), holding=3, peak_gb=5.0) == 2  # memory still decides
    assert admitted(card(6.0, busy=None), holding=1, peak_gb=5.0) == 4  # a card that does not say is not busy


def test_a_card_without_a_thermometer_is_never_paused_for_heat() -> None:
    assert not step(Admission(), [card(celsius=None)], {}, LIMITS).cards[0].paused


def published(state_dir: Path, *workers: int) -> None:
    cards = [
        {"index": k, "name": "a card", "workers": n, "paused": False, "warm": False, "why": "full"}
        for k, n in enumerate(workers)
    ]
    write_atomic(state_dir / GPU, json.dumps({"cards": cards}).encode())


def test_workers_take_the_cards_in_turn_and_each_reads_its_own_verdict(tmp_path: Path) -> None:
    published(tmp_path, 2, 1)
    held = [hold_reason(tmp_path, worker=w, on_gpu=True) for w in range(5)]
    assert held == ["", "", "", "GPU 1: full", "GPU 0: full"]
    assert not any(
        hold_reason(tmp_path, worker=w, on_gpu=False) for w in range(5)
    )  # a worker on the processor is not asked


def test_the_disk_floor_holds_everybody(tmp_path: Path) -> None:
    assert hold_reason(tmp_path, worker=0, on_gpu=False) == ""
    write_atomic(tmp_path / "run" / "disk_floor", b"")
    assert "disk" in hold_reason(tmp_path, worker=0, on_gpu=False)


def test_the_janitor_counts_living_workers_publishes_and_forgets_a_card_that_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cards are the only thing invented here: this machine has none."""
    readings: list[GpuReading] = []
    monkeypatch.setattr(cards_module, "read_gpus", lambda: tuple(readings))
    keeper = Cards(config=parse({}), state_dir=tmp_path, clock=ManualClock(), log=get_logger())
    keeper.look()
    assert not (tmp_path / GPU).exists()
    readings.append(card(6.0))
    assert keeper.look().cards[0].workers == 1  # nothing is measured yet
    write_usage(tmp_path, "worker-0", study="default", worker=0, vram_bytes=4 * GB, vram_peak_bytes=5 * GB)
    dead = {**read_usages(tmp_path)["worker-0"], "worker": 1, "started_s": 1.0}
    write_atomic(tmp_path / "run" / "worker-1.usage.json", json.dumps(dead).encode())
    wider = {**dead, "study": "a study of wider networks", "worker": 2, "vram_peak_bytes": 20 * GB}
    write_atomic(tmp_path / "run" / "worker-2.usage.json", json.dumps(wider).encode())
    assert keeper.look().cards[0].workers == 1 + 3  # one lives, three more of 5 GB fit into 17
    record = json.loads((tmp_path / GPU).read_bytes())
    assert record["gpus"][0]["memory_used_bytes"] == 6 * GB and record["cards"][0]["workers"] == 4
    assert hold_reason(tmp_path, worker=3, on_gpu=True) == "" and hold_reason(tmp_path, worker=4, on_gpu=True)
    readings.clear()
    assert keeper.look().cards == {}
    assert hold_reason(tmp_path, worker=4, on_gpu=True) == ""
