"""Rules of the house that neither the linter nor the type checker can see."""

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from daemon.cli import VERBS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("daemon", "features", "paper_trader", "trainer")
SOURCES = tuple(sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")))
CONFIG = tomllib.loads((ROOT / "config.toml").read_text())
KEYS = tuple((section, key) for section, values in CONFIG.items() for key in values)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_the_four_packages_hold_code() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES if path.stat().st_size} == set(PACKAGES)


def test_no_source_file_is_longer_than_400_lines() -> None:
    long = {str(path.relative_to(ROOT)): n for path in SOURCES if (n := len(path.read_text().splitlines())) > 400}
    assert not long


def test_clock_and_chance_enter_only_through_their_port() -> None:
    child = ROOT / "daemon" / "child"
    allowed = {child / "clock.py", child / "logs.py"}  # a log line is labelled with the time; nothing is decided by it
    culprits = {
        str(path.relative_to(ROOT)): module
        for path in SOURCES
        if path not in allowed
        for module in imported_modules(path)
        if module.split(".")[0] in {"time", "random", "secrets"}
    }
    assert not culprits


def test_nothing_stored_can_run_code_when_it_is_read() -> None:
    forbidden_calls = {"torch.load", "torch.save", "np.load", "numpy.load", "pd.read_pickle", "joblib.load"}
    culprits = []
    for path in SOURCES:
        name = path.relative_to(ROOT)
        culprits += [f"{name}: {m}" for m in imported_modules(path) if m.split(".")[0] in PICKLES]
        for node in ast.walk(tree(path)):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func) in forbidden_calls):
                continue
            # numpy's own reader is safe unless it is told to unpickle, which it must be told
            if ast.unparse(node.func).endswith(("np.load", "numpy.load")):
                if any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords):
                    culprits.append(f"{name}:{node.lineno}: {ast.unparse(node)}")
            else:
                culprits.append(f"{name}:{node.lineno}: {ast.unparse(node)}")
    assert not culprits


PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def readers_of(section: str, key: str) -> list[str]:
    """Files where `.key` is read from a value that comes from the section.

    A value counts when it is written `….section.key`, or stands in a file that takes `….section` or names its record
    (`StudyConfig`). `asdict(….section)` and `vars(….section)` hand on every key of the section at once.
    """
    record = f"{section.capitalize()}Config"
    found = []
    for path in SOURCES:
        if path.name == "config.py" and path.parent.name == "child":
            continue
        nodes = list(ast.walk(tree(path)))
        attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        whole = any(
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in {"asdict", "dataclasses.asdict"}
            and any(isinstance(arg, ast.Attribute) and arg.attr == section for arg in node.args)
            for node in nodes
        )
        if whole or (key in attributes and (section in attributes or record in names)):
            found.append(str(path.relative_to(ROOT)))
    return found


@pytest.mark.parametrize(("section", "key"), KEYS, ids=str)
def test_every_key_of_the_configuration_is_read_by_some_program(section: str, key: str) -> None:
    assert readers_of(section, key), f"{section}.{key} changes nothing"


def test_every_key_of_the_configuration_says_why_or_has_its_unit_in_the_name() -> None:
    units = ("_s", "_bps", "_bytes", "_utc", "_bars", "_share", "_path", "_dir", "_per_s")
    bare = []
    for line in (ROOT / "config.toml").read_text().splitlines():
        key, equals, _ = line.partition(" = ")
        if equals and not key.startswith("#") and "#" not in line and not key.endswith(units):
            bare.append(key)
    assert not bare


def test_no_other_distribution_owns_one_of_the_four_names() -> None:
    owners = packages_distributions()
    assert {name: set(owners.get(name, ["cappuccino"])) for name in PACKAGES} == {p: {"cappuccino"} for p in PACKAGES}


def test_the_constraints_pin_one_exact_version_per_line_and_name_no_place() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 50
    assert not [line for line in lines if line.count("==") != 1 or any(mark in line for mark in "/+@ ;<>~*")]
    assert "torch==2.13.0" in lines
    assert len({line.split("==")[0].lower() for line in lines}) == len(lines)


def test_the_constraints_cover_every_declared_requirement() -> None:
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = project["project"]["dependencies"] + project["build-system"]["requires"]
    declared += [needed for extra in project["project"]["optional-dependencies"].values() for needed in extra]
    names = {requirement.split(">")[0].split("=")[0].split("<")[0].strip() for requirement in declared}
    assert not names - pinned


def test_the_readme_lists_the_verbs_that_exist() -> None:
    rows = [line.split("|")[1:3] for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `")]
    table = {name.strip(" `"): text.strip() for name, text in rows}
    assert {verb: table.get(verb) for verb in VERBS} == {verb: text for verb, (_, text) in VERBS.items()}


def test_the_readme_opens_with_the_two_commands_and_names_only_targets_that_exist() -> None:
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    assert [line.split("#")[0].strip() for line in readme.splitlines()[:2]] == ["make demo", "make test"]
    named = {line.split()[1] for line in readme.splitlines() if line.startswith("    make ")}
    assert not {target for target in named if f"\n{target}: " not in makefile}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_file(verb: str) -> None:
    assert (ROOT / "daemon" / "cli" / f"{VERBS[verb][0]}.py").exists()
