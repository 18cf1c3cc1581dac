"""The real supervisor on a disk that is full to the last byte: it refuses, goes on, and begins with the reserve."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounts import KINDS, fill, mounted
from stage import Stage, close, staged

TRADER = {"paper_trader": ("work", "")}
BOTH = {**TRADER, "worker": ("work", "")}


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with mounted(request.param, tmp_path / "disk", size_mib=8) as place:
        yield place


def test_a_configuration_that_does_not_fit_is_refused_and_the_old_one_stays_in_force(disk: Path) -> None:
    with staged(disk, BOTH, study={"workers": 1}) as stage:
        before, in_force = stage.pids(), (disk / "config.json").read_bytes()
        stage.configure(study={"workers": 1, "train_steps": 7000})
        filler = fill(disk)
        for request in (("scale", "0"), ("reload", "--wait")):
            refused = stage.ctl(*request)
            assert refused.returncode == 1 and refused.stderr.rstrip().endswith("is full (free space)"), refused.stderr
        assert stage.process is not None
        stage.process.send_signal(signal.SIGHUP)
        for _ in range(3):  # it answers after the signal as before it
            assert stage.pids() == before
        assert (disk / "config.json").read_bytes() == in_force
        filler.unlink()
        done = stage.ctl("reload", "--wait")
        assert done.returncode == 0 and "restarted worker-0" in done.stdout, done.stderr
        assert json.loads((disk / "config.json").read_bytes())["study"]["train_steps"] == 7000
        assert stage.pids()["paper_trader"] == before["paper_trader"]


@pytest.fixture
def stage(disk: Path) -> Iterator[Stage]:
    stage = Stage(disk, TRADER)
    yield stage
    close(stage)


def started_and(stage: Stage, *, stopped: bool) -> None:
    """A run that left its files, after an orderly stop or a SIGKILL."""
    stage.start()
    stage.until(stage.all_beating)
    assert stage.process is not None
    if stopped:
        stage.process.terminate()
        stage.process.wait()
    stage.kill()


@pytest.mark.parametrize("stopped", [True, False])
def test_a_start_on_a_full_disk_takes_the_reserve(stage: Stage, *, stopped: bool) -> None:
    started_and(stage, stopped=stopped)
    reserve = stage.state_dir / "reserve"
    reserve.write_bytes(b"r" * 1_000_000)
    fill(stage.state_dir)
    stage.start()
    stage.until(stage.all_beating)
    assert not reserve.exists()
    assert len(stage.log("daemon.started")) == 2 and len(stage.log("daemon.reserve_given_up")) == 1


def test_a_start_without_any_room_asks_for_room_and_for_nothing_else(stage: Stage) -> None:
    for _ in ("the first ever", "one after a run"):
        filler = fill(stage.state_dir)
        asked = stage.ctl("run", "--config", str(stage.state_dir / "given.json"))
        assert asked.returncode == 1 and asked.stderr.rstrip().endswith("is full (free space)"), asked.stderr
        assert len(asked.stderr.splitlines()) == 1
        filler.unlink()
        started_and(stage, stopped=True)
