"""docs/features.md is true: its example, and nothing else, gives everything a feature has."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "features.md").read_text()
LISTING = "from daemon.cli import main; raise SystemExit(main(['features', 'list']))"


@pytest.fixture
def with_the_example(tmp_path: Path) -> dict[str, str]:
    """An environment in which `import added` stands for having written the example at the end of indicators.py."""
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    (tmp_path / "added.py").write_text(f"from features import indicators\nexec({example!r}, vars(indicators))\n")
    return os.environ | {"PYTHONPATH": str(tmp_path)}


def run(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_is_listed_with_its_parameters_lookback_and_doc(with_the_example: dict[str, str]) -> None:
    listing = run(with_the_example, "-c", f"import added; {LISTING}")
    assert "body(bars=24)  asset, reads 23 bars back\n    Mean of close over open, less 1, over `bars`.\n" in listing


def test_the_example_is_put_through_parity_and_look_ahead_without_a_line_of_test(
    with_the_example: dict[str, str],
) -> None:
    suites = [f"tests/features/test_{name}.py" for name in ("look_ahead", "pipeline")]
    output = run(with_the_example, "-m", "pytest", "-v", "-p", "added", "-p", "no:cacheprovider", "-k", "body", *suites)
    passed = re.findall(r"::test_(\w+)\[body\] PASSED", output)
    assert sorted(passed) == [
        "a_bar_before_the_lookback_does_not_matter",
        "a_window_feature_forgets_everything_before_its_lookback",
        "every_registered_feature_streams_to_the_bits_of_its_batch",
        "no_later_bar_changes_an_earlier_row",
        "the_current_bar_and_the_oldest_one_declared_matter",
    ]


def test_what_the_document_calls_by_name_exists() -> None:
    from features import expressions, indicators

    for name in re.findall(r"^\| .*", DOCUMENT, flags=re.MULTILINE):
        for called in re.findall(r"`(\w+)(?:\(|`)", name):
            assert hasattr(expressions, called) or hasattr(indicators, called), called
