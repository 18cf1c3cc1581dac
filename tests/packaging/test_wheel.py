"""What is installed is what was built: the wheel works without the checkout, from any folder."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("daemon", "features", "paper_trader", "trainer")


def run(*argv: str | Path, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV", "PIP_"))}
    done = subprocess.run([str(a) for a in argv], cwd=cwd, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"{argv} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def prefix(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel in it.

    Third-party packages come from the environment the tests run in, through a .pth file: pip needs no index, and the
    editable checkout stays out, because .pth files of a folder added that way are not followed.
    """
    home = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    site = Path(
        run(
            home / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home
        ).stdout.strip()
    )
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        home / "bin" / "python",
        "install",
        "--no-index",
        "--no-deps",
        "-qq",
    ]
    run(*pip, wheel, cwd=home)
    (site / "third_party.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder that holds traps: packages of the same names, which must not be picked up."""
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(
            "raise ImportError('the working directory shadows the wheel')\n"
        )
    return tmp_path


def test_the_wheel_holds_the_four_packages_and_nothing_of_the_checkout(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {*PACKAGES, "cappuccino-0.1.0.dist-info", "cappuccino-0.1.0.data"}
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]
    missing = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")} - set(
        names
    )
    assert not missing


def test_the_installed_packages_come_from_their_own_environment_alone(prefix: Path, elsewhere: Path) -> None:
    code = (
        "import json, daemon, features, paper_trader, trainer;"
        "print(json.dumps([m.__file__ for m in (daemon, features, paper_trader, trainer)]))"
    )
    homes = json.loads(run(prefix / "bin" / "python", "-P", "-c", code, cwd=elsewhere).stdout)
    assert len({Path(home).parent.parent for home in homes}) == 1
    assert all(Path(home).is_relative_to(prefix) for home in homes)


def test_the_console_script_answers_from_another_folder(prefix: Path, elsewhere: Path) -> None:
    said = run(prefix / "bin" / "cappuccinoctl", "--help", cwd=elsewhere).stdout
    assert all(verb in said for verb in ("run", "demo", "status"))


@pytest.mark.parametrize("module", ["trainer", "paper_trader"])
def test_a_program_starts_from_another_folder_as_the_daemon_starts_it(
    prefix: Path, elsewhere: Path, module: str
) -> None:
    said = run(prefix / "bin" / "python", "-P", "-m", module, "--help", cwd=elsewhere).stdout
    assert "--state-dir" in said or "usage" in said.lower()


def test_configuration_and_units_are_shipped_as_they_stand_in_the_checkout(prefix: Path) -> None:
    shared = prefix / "share" / "cappuccino"
    assert (shared / "config.toml").read_bytes() == (ROOT / "config.toml").read_bytes()
    units = sorted((ROOT / "systemd").iterdir())
    assert units
    for unit in units:
        assert (shared / "systemd" / unit.name).read_bytes() == unit.read_bytes()


def test_the_installed_code_carries_the_version_of_the_project(prefix: Path, elsewhere: Path) -> None:
    code = "from importlib.metadata import version; print(version('cappuccino'))"
    assert run(prefix / "bin" / "python", "-P", "-c", code, cwd=elsewhere).stdout.strip() == "0.1.0"


@pytest.mark.slow
def test_the_tests_of_the_contract_pass_against_the_wheel(prefix: Path, elsewhere: Path) -> None:
    """The suite of `features`, collected from the checkout's tests but importing the installed packages."""
    tests = elsewhere / "suite"
    tests.mkdir()
    for name in ("features", "venues", "conftest.py", "world.py"):
        (tests / name).symlink_to(ROOT / "tests" / name)
    paths = f"pythonpath={tests} {tests / 'venues'}"
    argv = ["-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", "-o", paths]
    run(prefix / "bin" / "python", "-P", *argv, tests / "features", cwd=elsewhere)
