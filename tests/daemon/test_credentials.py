"""Secrets come from files that nobody else can read, and are shown nowhere."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from alpaca_like import KEYS, AlpacaLike
from rig import truth_bars

from daemon.child.credentials import ALPACA, alpaca_keys, credential
from daemon.child.logs import configure_logging, get_logger
from features.errors import ConfigurationError
from features.sources.keys import KeyPair

SECRET = "s3cr3t-never-to-be-seen"


@pytest.fixture(autouse=True)
def _no_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def written(directory: Path, mode: int = 0o600, **secrets: str) -> Path:
    directory.mkdir(exist_ok=True)
    for name, text in secrets.items():
        path = directory / name
        path.write_text(text)
        path.chmod(mode)
    return directory


def test_a_secret_is_the_one_word_of_its_file(tmp_path: Path) -> None:
    directory = written(tmp_path / "c", alpaca_key_id="PK123\n", alpaca_secret_key=f"  {SECRET}\n")
    assert credential("alpaca_key_id", directory) == "PK123"
    assert alpaca_keys(directory) == KeyPair(key_id="PK123", secret=SECRET)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o610, 0o644])
def test_a_file_that_others_may_use_is_refused_with_the_command_that_mends_it(tmp_path: Path, mode: int) -> None:
    directory = written(tmp_path / "c", mode, alpaca_key_id="PK123")
    with pytest.raises(ConfigurationError, match=rf"{mode:04o}.*chmod 600 .*alpaca_key_id"):
        credential("alpaca_key_id", directory)
    (directory / "alpaca_key_id").chmod(0o400)
    assert credential("alpaca_key_id", directory) == "PK123"


def test_systemds_directory_comes_first_and_its_modes_are_its_own_affair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = written(tmp_path / "ours", alpaca_key_id="PKOURS", alpaca_secret_key="ours")
    theirs = written(tmp_path / "theirs", 0o440, alpaca_key_id="PKTHEIRS")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(theirs))
    assert credential("alpaca_key_id", ours) == "PKTHEIRS"
    assert credential("alpaca_secret_key", ours) == "ours"  # what systemd was not given comes from our files


def test_the_environment_is_no_source_of_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ALPACA, "APCA_API_KEY_ID", "APCA_API_SECRET_KEY", "ALPACA_KEY_ID", "ALPACA_SECRET_KEY"):
        monkeypatch.setenv(name, SECRET)
        monkeypatch.setenv(name.upper(), SECRET)
    assert alpaca_keys(tmp_path) is None


def test_no_keys_are_none_and_half_a_pair_is_an_error_that_names_the_other_half(tmp_path: Path) -> None:
    assert alpaca_keys(tmp_path / "absent") is None
    directory = written(tmp_path / "c", alpaca_key_id="PK123")
    with pytest.raises(ConfigurationError, match=r"alpaca_secret_key is missing"):
        alpaca_keys(directory)


@pytest.mark.parametrize("content", ["", "\n", "two words", "PK\x00", "schlüssel", "a\nb"])
def test_a_file_that_holds_no_single_word_is_refused_without_showing_it(tmp_path: Path, content: str) -> None:
    directory = written(tmp_path / "c", alpaca_key_id=content)
    with pytest.raises(ConfigurationError, match="alpaca_key_id") as caught:
        credential("alpaca_key_id", directory)
    if content.strip():
        assert content not in str(caught.value)


def test_a_directory_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "alpaca_key_id").mkdir()
    with pytest.raises(ConfigurationError, match="alpaca_key_id cannot be read"):
        credential("alpaca_key_id", tmp_path)


def test_a_pair_of_keys_shows_itself_nowhere(tmp_path: Path) -> None:
    pair = KeyPair(key_id="PK123", secret=SECRET)
    for text in (repr(pair), str(pair), f"{pair}", repr([pair]), repr(ConfigurationError(f"{pair}"))):
        assert SECRET not in text
        assert "PK123" not in text
    path = tmp_path / "x.jsonl"
    configure_logging(component="trader", child="paper_trader", path=path, level=logging.DEBUG)
    try:
        get_logger().info("market.opened", keys=pair, secret_key=SECRET, detail={"apca-api-secret-key": SECRET})
        logging.getLogger("anything").error("refused: %s", {"APCA-API-SECRET-KEY": SECRET})
    finally:
        for handler in list(logging.getLogger().handlers):
            if isinstance(handler, logging.FileHandler):
                logging.getLogger().removeHandler(handler)
                handler.close()
        logging.getLogger().setLevel(logging.WARNING)
    assert len(path.read_text().splitlines()) == 2
    assert SECRET not in path.read_text()


PROGRAM = """
import json, sys, time
from pathlib import Path
from daemon.child.credentials import alpaca_keys
from daemon.child.logs import configure_logging
import logging
from features.sources import open_source

api_url, directory, log, now_s = sys.argv[1:]
configure_logging(component="t", child="t", path=Path(log), level=logging.DEBUG)
source = open_source(
    source="alpaca", exchange="", quote="USD", tickers=("BTC", "ETH", "LINK"), timeframe_s=3600, recorded_path="",
    grace_s=20.0, history_bars=100, world="null", seed=1, bars=10, start_utc="2021-01-01T00:00:00Z", oracle_sharpe=1.5,
    clock_now_s=lambda: float(now_s), api_url=api_url, keys=alpaca_keys(Path(directory)),
    stream_clock_s=time.monotonic,
)
bars = source.bars(after_s=source.first_close_s() - 3600, until_s=source.last_close_s())
print(json.dumps([bars.sha256(), source.venue_rules().venue]))
"""


def test_a_program_reads_alpaca_with_keys_from_files_and_neither_shows_nor_leaves_anything_behind(
    tmp_path: Path,
) -> None:
    truth = truth_bars(300)
    directory = written(tmp_path / "c", alpaca_key_id=KEYS.key_id, alpaca_secret_key=KEYS.secret)
    with AlpacaLike(truth=truth, now_s=truth.last_close_s + 60.0) as venue:
        answer = subprocess.run(
            [sys.executable, "-P", "-c", PROGRAM, venue.api_url, str(directory), str(tmp_path / "log"), str(venue.now_s)],
            capture_output=True, text=True, timeout=60, check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
        # the stream is sought at the same host, where plain HTTP answers: the source does without
        assert "/v1beta3/crypto/us" in {path for path, _ in venue.requests}
    sha256, rules = json.loads(answer.stdout)
    assert (sha256, rules) == (truth.slice(200, 300).sha256(), "alpaca")
    assert answer.stderr == ""
    assert KEYS.secret not in (tmp_path / "log").read_text() + answer.stdout
