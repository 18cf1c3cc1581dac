"""What every child relies on: configuration, files that survive a crash, locks, progress, logs."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.child.config import Config, load_config, parse
from daemon.child.logs import configure_logging, get_logger, redact
from daemon.child.market import venue_of
from daemon.child.progress import FD_VARIABLE, Progress
from features.errors import ConfigurationError, DataError
from features.files import AlreadyRunning, Lock, append_jsonl, read_jsonl, write_atomic

SHIPPED = Path(__file__).parents[2] / "config.toml"


def test_the_shipped_file_is_the_defaults_and_names_every_key() -> None:
    shipped = tomllib.loads(SHIPPED.read_text())
    defaults = json.loads(Config().to_json())
    assert {s: set(v) for s, v in shipped.items()} == {s: set(v) for s, v in defaults.items()}
    assert load_config(SHIPPED) == Config()


def test_a_configuration_survives_being_written_and_read(tmp_path: Path) -> None:
    config = load_config(
        SHIPPED, [], ["study.workers=1", "market.quote=USD", "paper.replay_start_utc=2024-01-01T00:00:00Z"]
    )
    (tmp_path / "c.json").write_text(config.to_json())
    assert load_config(tmp_path / "c.json") == config
    assert (config.study.workers, config.market.quote) == (1, "USD")
    assert config.paper.replay_start_utc == "2024-01-01T00:00:00Z"


def test_later_files_and_single_keys_overlay_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[study]\nworkers = 3\n[market]\ntickers = ["BTC"]\n')
    config = load_config(SHIPPED, [tmp_path / "mine.toml"], ["study.workers=5"])
    assert config.study.workers == 5
    assert config.market.tickers == ("BTC",)
    assert config.study.target_trials == Config().study.target_trials


@pytest.mark.parametrize("data", [b"# caf\xe9\n[study]\n", b"\0", b"study = 3\n"])
def test_a_file_that_is_no_configuration_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "mine.toml").write_bytes(data)
    with pytest.raises(ConfigurationError, match=r"mine\.toml"):
        load_config(SHIPPED, [tmp_path / "mine.toml"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("study.worker=1", "did you mean workers"), ("stduy.workers=1", "did you mean study"),
        ("study.workers", "section.key=value"), ("study.workers=1.5", "must be of type int"),
        ("market.source=yahoo", "choose one of"), ("costs.fee_bps=nan", "must not be negative"),
        ("data.end_utc=2024-01-01", "UTC time"), ("data.holdout_share=1.0", "between 0 and 1"),
        ("study.seeds=0", "at least 1"), ('market.tickers=["BTC", "BTC"]', "distinct"),
        ("market.source=recorded", "recorded_path"), ("study.name=2026/11", "names a folder"),
        ("study.name=..", "names a folder"),
        ("run.credentials_dir=~nobody-of-this-name/x", "absolute path"), ('study.name=""', "names a folder"),
        ('market.tickers=["BTC/USDT"]', "is market.quote"), ("simulation.start_utc=", "UTC time"),
        ("paper.clock=replay", "replay_start_utc is empty"),
        *((f"{key}=0", "must be above 0") for key in (
            "janitor.every_s", "janitor.poll_s", "janitor.backup_every_s", "janitor.log_max_bytes", "advisor.poll_s",
            "notify.per_hour", "notify.ping_every_s", "notify.timeout_s", "daemon.trader_hang_s", "daemon.worker_hang_s",
            "daemon.service_hang_s", "daemon.restart_window_s",
        )),
        ('study.ranges=["gamma=0.9..0.99"]', "0.9 is outside"), ('study.ranges=["lookback=2"]', "not searched here"),
        ('study.ranges=["epochs=inf"]', "not a finite number"), ('study.ranges=["width=32|33"]', "33 is none of"),
        ("janitor.keep_backups=0", "at least 1"), ("daemon.max_open_files=16", "at least 64"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_its_name_and_a_remedy(override: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_config(SHIPPED, [], [override])
    assert words in str(caught.value)
    assert caught.value.exit_code == 78


def test_training_begins_before_judging_and_judging_before_the_end() -> None:
    times = [
        f"data.{key}=202{year}-01-01T00:00:00Z"
        for key, year in (("train_start_utc", 1), ("judge_start_utc", 2), ("end_utc", 3))
    ]
    assert load_config(SHIPPED, [], times).data.end_utc.startswith("2023")
    for left_out, late in ((0, "end_utc"), (1, "end_utc"), (2, "judge_start_utc")):
        kept = [t.replace("2021", "2024").replace("2022", "2023") for k, t in enumerate(times) if k != left_out]
        with pytest.raises(ConfigurationError, match=f"it must be before data.{late}"):
            load_config(SHIPPED, [], kept)


def test_the_world_bootstrap_needs_the_candles_that_it_draws_from() -> None:
    world = ["market.source=simulated", "simulation.world=bootstrap"]
    with pytest.raises(ConfigurationError, match=r"market\.recorded_path is empty .*draws from"):
        load_config(SHIPPED, [], world)
    assert load_config(SHIPPED, [], [*world, "market.recorded_path=x.parquet"]).simulation.world == "bootstrap"


def test_the_store_keeps_every_market_under_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = ("market.source=simulated",)
    drawn = (*world, "simulation.world=bootstrap")
    other_places = [tmp_path / "a" / "x.parquet", tmp_path / "b" / "x.parquet", tmp_path / "b" / "x.csv"]
    records = [f"market.recorded_path={path}" for path in other_places]
    markets = [
        ("market.source=ccxt",), ("market.source=alpaca",), world,
        *((*world, f"simulation.{other}") for other in ("world=sv", "seed=12", "oracle_sharpe=3.0")),
        (*world, "simulation.start_utc=2022-01-01T00:00:00Z"), (*world, 'market.tickers=["BTC", "ETH"]'),
        *((*drawn, record) for record in records), *(("market.source=recorded", record) for record in records),
    ]  # fmt: skip
    names = [venue_of(load_config(SHIPPED, [], list(market))) for market in markets]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)
    longer = venue_of(load_config(SHIPPED, [], [*world, "simulation.bars=27000"]))
    assert longer == names[2], "a longer world begins with the shorter one"
    monkeypatch.chdir(tmp_path)
    beside = "market.recorded_path=a/../a/x.parquet"
    assert venue_of(load_config(SHIPPED, [], ["market.source=recorded", beside])) == names[-3]


def test_a_reader_never_sees_half_a_file_while_writers_are_killed(tmp_path: Path) -> None:
    path = tmp_path / "pointer.json"
    write_atomic(path, json.dumps({"n": -1, "pad": "x" * 100_000}).encode())
    code = (
        "import json, sys; from pathlib import Path; from features.files import write_atomic\n"
        "for n in range(10**6): write_atomic(Path(sys.argv[1]), json.dumps({'n': n, 'pad': 'x' * 100_000}).encode())"
    )
    seen = set()
    for round_ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
        end_s = time.monotonic() + 0.7
        while time.monotonic() < end_s or len(seen) < 3 * (round_ + 1):  # a busy machine takes longer
            seen.add((round_, json.loads(path.read_bytes())["n"]))
        writer.kill()
        writer.wait()
        assert len(json.loads(path.read_bytes())["pad"]) == 100_000
    assert len(seen) > 10


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(1, 80))
def test_a_torn_tail_is_ignored_by_readers_and_cut_by_the_next_writer(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "records.jsonl"
    for n in range(3):
        append_jsonl(path, {"n": n, "text": "é" * 10})
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    whole = [r["n"] for r in read_jsonl(path)]
    assert whole == list(range(len(whole))) and len(whole) == 2
    append_jsonl(path, {"n": 9})
    assert [r["n"] for r in read_jsonl(path)] == [*whole, 9]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    for n in range(3):
        append_jsonl(path, {"n": n})
    path.write_bytes(path.read_bytes().replace(b'"n":1', b'"n":7'))
    with pytest.raises(DataError, match="line 2 does not match its checksum"):
        read_jsonl(path)


def test_a_lock_is_free_the_moment_its_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "run" / "x.lock"
    code = (
        "import sys; from pathlib import Path; from features.files import Lock\n"
        "with Lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        assert Lock(path).is_held()
        with pytest.raises(AlreadyRunning, match="held by another process"), Lock(path):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert not Lock(path).is_held()
    with Lock(path):
        pass


def test_progress_never_blocks_its_writer_and_its_lines_stay_whole() -> None:
    read_fd, write_fd = os.pipe()
    progress = Progress(write_fd)
    began_s = time.monotonic()
    for n in range(5000):  # nobody reads: the pipe fills up
        progress.beat(done=n, unit="steps", note="x" * 100)
    assert time.monotonic() - began_s < 5.0
    os.close(write_fd)
    data = b""
    while part := os.read(read_fd, 65_536):
        data += part
    os.close(read_fd)
    numbers = [json.loads(line)["done"] for line in data.splitlines()]
    assert numbers == list(range(len(numbers))) and len(numbers) > 100


def test_progress_without_a_supervisor_is_silent_and_survives_a_reader_that_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(FD_VARIABLE, raising=False)
    Progress.from_environment().beat(done=1)
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    progress = Progress(write_fd)
    progress.beat(done=1)
    progress.beat(done=2)
    os.close(write_fd)


def test_a_beat_too_long_for_one_atomic_write_drops_its_facts_not_its_count() -> None:
    read_fd, write_fd = os.pipe()
    Progress(write_fd).beat(done=7, facts={"text": "y" * 10_000})
    record = json.loads(os.read(read_fd, 65_536))
    assert record["done"] == 7 and "facts" not in record
    os.close(read_fd), os.close(write_fd)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("api_key", "PKTEST123"), ("APCA-API-SECRET-KEY", "s3cr3t"), ("passphrase", "s3cr3t"),
        ("url", "https://x?token=s3cr3t&a=1"), ("error", "401 {'secret': 's3cr3t'}"), ("headers", {"Authorization": "s3cr3t"}),
    ],
)  # fmt: skip
def test_no_secret_reaches_a_log(key: str, value: object) -> None:
    assert "s3cr3t" not in str(redact(None, "", {key: value})) and "PKTEST123" not in str(
        redact(None, "", {key: value})
    )


def test_every_program_logs_the_same_json_lines_and_libraries_end_there_too(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    configure_logging(component="trader", child="paper_trader", path=path)
    try:
        get_logger().info("bar.settled", equity=1.5)
        logging.getLogger("somelibrary").warning("careful: api_key=%s", "s3cr3t")
        logging.getLogger("ccxt").info("a whole HTTP answer")
    finally:
        for handler in list(logging.getLogger().handlers):
            if isinstance(handler, logging.FileHandler):
                logging.getLogger().removeHandler(handler)
                handler.close()
    first, second = map(json.loads, path.read_text().splitlines())
    assert {"ts", "mono", "level", "event", "component", "child", "pid", "schema"} <= set(first) & set(second)
    assert (first["event"], first["equity"], first["child"]) == ("bar.settled", 1.5, "paper_trader")
    assert "s3cr3t" not in second["event"]


def test_every_default_passes_its_own_checks() -> None:
    assert parse({}) == Config()
    assert asdict(parse({"run": {"seed": 8}}))["run"]["seed"] == 8
