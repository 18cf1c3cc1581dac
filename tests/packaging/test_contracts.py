"""Each import contract, broken on purpose in a copy, is reported as broken; untouched, all of them hold."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("daemon", "features", "paper_trader", "trainer")
LINT = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--config", "pyproject.toml"]

BREAKS = {
    "layers": ("trainer/__main__.py", "import paper_trader"),
    "strangers": ("daemon/status/record.py", "import trainer"),
    "features": ("features/costs.py", "import torch"),
    "child_only": ("trainer/worker.py", "import daemon.janitor"),
    "light": ("features/files.py", "import gymnasium"),
    "pure": ("features/account.py", "import os"),
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the sources alone; run from it, it is found before the installed packages."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def verdict(checkout: Path, contract: str) -> tuple[int, str]:
    done = subprocess.run([*LINT, "--contract", contract], cwd=checkout, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def contracts() -> dict[str, dict[str, Any]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return {contract["id"]: contract for contract in settings["contracts"]}


def test_every_contract_has_a_deed_that_breaks_it() -> None:
    assert set(contracts()) == set(BREAKS)


def test_no_module_of_the_daemon_stands_outside_the_contracts() -> None:
    modules = {
        f"daemon.{p.stem}" for p in (ROOT / "daemon").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    modules -= {"daemon.__init__", "daemon.__main__"}
    layered = {m.strip(" ()") for layer in contracts()["layers"]["layers"] for m in layer.replace("|", ":").split(":")}
    assert modules <= layered
    assert set(contracts()["child_only"]["forbidden_modules"]) == modules - {"daemon.child"}


@pytest.mark.parametrize("contract", BREAKS)
def test_a_contract_notices_the_import_it_forbids(checkout: Path, contract: str) -> None:
    code, said = verdict(checkout, contract)
    assert code == 0, said
    file, line = BREAKS[contract]
    with (checkout / file).open("a") as source:
        source.write(f"\n{line}\n")
    code, said = verdict(checkout, contract)
    assert code == 1, said
    assert "1 broken" in said
