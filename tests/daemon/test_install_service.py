"""install-service: the right paths, twice the same, a difference shown before it is overwritten, and all of it undone."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.install import SYSTEM, USER, Layout, plan, require_visible, shipped_units, this_program, wanted_files
from features.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]


def ctl(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "daemon", "install-service", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "HOME": str(home)}
    )  # fmt: skip


def test_installing_for_a_user_writes_a_unit_that_starts_this_very_program_and_twice_changes_nothing(
    tmp_path: Path,
) -> None:
    image, home = tmp_path / "image", Path("/home/somebody")
    done = ctl("--user", "--prefix", str(image), home=home)
    assert done.returncode == 0, done.stderr
    unit = image / "home/somebody/.config/systemd/user/cappuccino.service"
    assert f"ExecStart={this_program()} run --config %E/cappuccino/config.toml" in unit.read_text()
    assert f"ExecReload={this_program()} reload" in unit.read_text() and "/opt/" not in unit.read_text()
    assert (image / "home/somebody/.config/cappuccino/config.toml").read_bytes() == (ROOT / "config.toml").read_bytes()
    again = json.loads(ctl("--user", "--prefix", str(image), "--json", home=home).stdout)
    assert [c["action"] for c in again["changes"]] == ["same", "same"]


def test_a_changed_unit_is_shown_as_a_diff_and_replaced_and_a_changed_configuration_is_kept(tmp_path: Path) -> None:
    ctl("--user", "--prefix", str(tmp_path), home=Path("/h"))
    unit, config = tmp_path / "h/.config/systemd/user/cappuccino.service", tmp_path / "h/.config/cappuccino/config.toml"
    shipped = unit.read_text()
    unit.write_text(shipped.replace("RestartSec=2s", "RestartSec=9s"))
    config.write_text("[study]\nworkers = 1\n")
    dry = ctl("--user", "--prefix", str(tmp_path), "--dry-run", home=Path("/h"))
    assert "would replace" in dry.stdout and "-RestartSec=9s" in dry.stdout and "+RestartSec=2s" in dry.stdout
    assert "RestartSec=9s" in unit.read_text()
    done = ctl("--user", "--prefix", str(tmp_path), home=Path("/h"))
    assert "-RestartSec=9s" in done.stdout and "kept (yours)" in done.stdout
    assert unit.read_text() == shipped and config.read_text() == "[study]\nworkers = 1\n"


@pytest.mark.parametrize(
    "words", [
        ("--set", "study.workers=1"), ("--config", "config.toml", "--config", "more.toml"), ("--state-dir", "/srv/state"),
    ]
)  # fmt: skip
def test_what_the_unit_would_not_read_is_refused_and_nothing_is_written(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = ctl("--user", "--prefix", str(tmp_path), *words, home=Path("/h"))
    assert (done.returncode, done.stdout) == (78, "")
    assert f"{words[-2]} {words[-1]}" in done.stderr and f"{tmp_path}/h/.config/cappuccino/config.toml" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "missing.toml"), ("[study]\nworkres = 1\n", "workres"),
        ('[study]\nranges = ["widht=32"]\n', "'widht' is not searched here"),
    ],
)  # fmt: skip
def test_a_configuration_that_the_daemon_would_refuse_is_not_installed(
    tmp_path: Path, text: str | None, said: str
) -> None:
    given = tmp_path / "missing.toml"
    if text is not None:
        given.write_text(text)
    done = ctl("--user", "--prefix", str(tmp_path / "image"), "--config", str(given), home=Path("/h"))
    assert (done.returncode, done.stdout) == (78, "") and said in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "image").exists()


def test_on_this_machine_that_is_also_what_this_machine_cannot_do(tmp_path: Path) -> None:
    given = tmp_path / "given.toml"
    given.write_text("[study]\nworkers = 99\n")
    done = ctl("--user", "--dry-run", "--config", str(given), home=tmp_path)
    assert (done.returncode, done.stdout) == (78, "") and "daemon.max_workers is 64" in done.stderr


def test_the_configuration_that_is_named_is_the_one_that_is_installed(tmp_path: Path) -> None:
    given = tmp_path / "mine.toml"
    given.write_text("[study]\nworkers = 1\n")
    done = ctl("--user", "--prefix", str(tmp_path / "image"), "--config", str(given), home=Path("/h"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "image/h/.config/cappuccino/config.toml").read_bytes() == given.read_bytes()


def test_uninstalling_removes_what_was_installed_and_leaves_the_configuration(tmp_path: Path) -> None:
    ctl("--user", "--prefix", str(tmp_path), home=Path("/h"))
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    assert (
        "would remove" in ctl("--user", "--prefix", str(tmp_path), "--uninstall", "--dry-run", home=Path("/h")).stdout
    )
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == before
    ctl("--user", "--prefix", str(tmp_path), "--uninstall", home=Path("/h"))
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["config.toml"]
    assert "nothing is installed" in ctl("--user", "--prefix", str(tmp_path), "--uninstall", home=Path("/h")).stdout


def test_the_system_layout_has_unit_account_folder_and_configuration(tmp_path: Path) -> None:
    layout = Layout(kind=SYSTEM, root=tmp_path, home=Path("/root"))
    files = wanted_files(layout, program=Path("/srv/c/bin/cappuccinoctl"), shipped=shipped_units(), config=b"x = 1\n")
    names = {str(p.relative_to(tmp_path)) for p in files}
    assert names == {
        "etc/systemd/system/cappuccino.service", "etc/sysusers.d/cappuccino.conf", "etc/tmpfiles.d/cappuccino.conf",
        "etc/cappuccino/config.toml",
    }  # fmt: skip
    unit = files[layout.unit].decode()
    assert re.findall(r"^Exec\w+=(\S+)", unit, re.MULTILINE) == ["/srv/c/bin/cappuccinoctl"] * 2
    assert [c.action for c in plan(dict.fromkeys(files), files, keep=layout.config)] == ["create"] * 4


@pytest.mark.parametrize("hidden", ["/home/me/venv/bin/cappuccinoctl", "/root/.venv/bin/cappuccinoctl", "/tmp/v/bin/x"])
def test_a_program_that_the_hardened_unit_could_not_see_is_refused(hidden: str) -> None:
    with pytest.raises(ConfigurationError, match="hidden from a hardened service"):
        require_visible(Path("/opt/cappuccino/bin/cappuccinoctl"), Path(hidden))


def test_the_user_unit_lives_by_the_same_rules_of_life_as_the_system_unit() -> None:
    units = {
        kind: (shipped_units() / name).read_text()
        for kind, name in ((SYSTEM, "cappuccino.service"), (USER, "cappuccino.user.service"))
    }
    for key in ("Type", "Restart", "RestartSec", "RestartPreventExitStatus", "WatchdogSec", "WatchdogSignal", "KillMode",
                "TimeoutStopSec", "TimeoutStartSec", "OOMPolicy", "StartLimitBurst", "StartLimitIntervalSec"):  # fmt: skip
        values = [re.findall(rf"^{key}=(.*)$", text, re.MULTILINE) for text in units.values()]
        assert values[0] == values[1] and len(values[0]) == 1, key


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_to_say_about_the_units_and_counts_little_exposure() -> None:
    done = subprocess.run([ROOT / ".ci" / "units"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    exposure = re.search(r"exposure level for cappuccino.service: ([\d.]+)", done.stdout)
    assert exposure is not None and float(exposure[1]) <= 1.5
