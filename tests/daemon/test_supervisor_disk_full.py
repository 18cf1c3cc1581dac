"""The real supervisor on a disk that is full to the last byte: it refuses, goes on, and begins with the reserve."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounts import KINDS, fill, mounted
from stage import staged

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
