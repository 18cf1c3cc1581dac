"""A simulated year of hourly bars with a fault every few hours: memory flat, descriptors constant."""

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from paper_trader.journal import Journal
from paper_trader.parity import verify

pytestmark = pytest.mark.chaos
YEAR = int(os.environ.get("CHAOS_SOAK_BARS", "8760"))
TESTS = Path(__file__).parents[1]
PATHS = (TESTS.parent, TESTS, TESTS / "venues", TESTS / "paper_trader")
SETTLED_IN = 1400  # bars after which every cache and the features' longest span have had their size


@pytest.mark.timeout(3600)
def test_a_year_of_faults_costs_no_memory_and_no_descriptor(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("soak_life.py")), str(tmp_path), str(YEAR)], check=False,
        env={**os.environ, "PYTHONPATH": ":".join(map(str, PATHS))}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    samples = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"bars"')]
    steady = [s for s in samples if s["bars"] > SETTLED_IN]
    third = len(steady) // 3
    early, late = (np.median([s["rss_mb"] for s in part]) for part in (steady[:third], steady[-third:]))
    files = {s["files"] for s in steady}
    last = samples[-1]
    print(
        f"\n{last['bars']} bars, {last['market']} outages, {last['disk']} full disks: {early:.1f} MB in the first third,"
        f" {late:.1f} MB in the last ({100 * (late / early - 1):+.2f} %), open files {sorted(files)}"
    )
    with closing(Journal(tmp_path / "paper" / "journal.db", read_only=True)) as journal:
        proof = verify(journal, tmp_path / "artifacts")
    print(f"{proof.decisions} decisions, {proof.marks} marks, {len(proof.mismatches)} mismatches")
    assert late <= 1.02 * early and len(files) == 1
    assert proof.mismatches == () and proof.marks == YEAR + 1  # and the opening
