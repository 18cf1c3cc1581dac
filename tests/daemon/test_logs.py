"""Logs: whole lines whoever writes and whoever rotates, no secret in any of them, and names that are a contract."""

import ast
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.child.log_file import RecordFile
from daemon.child.logs import MAX_RECORD_BYTES, configure_logging, get_logger, redact, render
from daemon.janitor.shell import rotate

ROOT = Path(__file__).parents[2]
PACKAGES = ("daemon", "features", "paper_trader", "trainer")
WRITERS = 4
BURST = (
    "import sys, pathlib; from daemon.child.logs import configure_logging, get_logger\n"
    "configure_logging(component='test', child='shared', path=pathlib.Path(sys.argv[1]))\n"
    "log = get_logger(); sys.stdin.readline()\n"
    "for n in range(int(sys.argv[3])): log.info('test.line', writer=int(sys.argv[2]), n=n)"
)


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "logs" / "x.jsonl"
    configure_logging(component="test", child="x", path=path)
    yield path
    for handler in list(logging.getLogger().handlers):
        if isinstance(handler, RecordFile):
            logging.getLogger().removeHandler(handler)
            handler.close()


@pytest.mark.parametrize("n_lines", [12_000, pytest.param(100_000, marks=pytest.mark.chaos)])
def test_no_line_of_four_writers_is_lost_or_mixed_while_the_file_is_rotated_mid_burst(
    tmp_path: Path, n_lines: int
) -> None:
    each = n_lines // WRITERS
    path = tmp_path / "shared.jsonl"
    writers = [
        subprocess.Popen([sys.executable, "-c", BURST, str(path), str(w), str(each)], stdin=subprocess.PIPE)
        for w in range(WRITERS)
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"go\n")
        writer.stdin.close()
    rotations = 0
    while any(w.poll() is None for w in writers):
        if path.exists() and path.stat().st_size > 100_000:
            rotate(path, keep=1000)
            rotations += 1
    assert [w.wait() for w in writers] == [0] * WRITERS
    records = [json.loads(line) for p in tmp_path.glob("shared.jsonl*") for line in p.read_bytes().splitlines()]
    seen = sorted((r["writer"], r["n"]) for r in records if r["event"] == "test.line")
    assert seen == [(w, n) for w in range(WRITERS) for n in range(each)]
    assert rotations >= 10


def test_a_follower_says_every_line_in_order_whenever_the_log_is_rotated_or_removed(tmp_path: Path) -> None:
    path, written = tmp_path / "logs" / "x.jsonl", [0]

    def write(file: IO[str]) -> None:
        written.append(len(written))
        file.write(f"{written[-1]}\n")

    def heard(within_s: float = 30.0) -> list[int]:
        deadline_s = time.monotonic() + within_s
        while (said := (tmp_path / "said").read_text().split()) != [str(n) for n in written]:
            if time.monotonic() > deadline_s:
                break
            time.sleep(0.05)
        return [int(line) for line in said]

    path.parent.mkdir()
    path.write_text("0\n")
    command = [sys.executable, "-P", "-m", "daemon", "logs", "x", "--follow", "--json", "--state-dir", str(tmp_path)]
    with (tmp_path / "said").open("wb") as output:
        follower = subprocess.Popen(command, stdout=output)
    try:
        assert heard() == written
        for leave in (lambda: rotate(path, keep=3), path.unlink, lambda: rotate(path, keep=3)):
            with path.open("a") as late:  # of a writer that looks just before the file goes, and writes just after
                write(late)
                late.flush()
                leave()
                write(late)
            with path.open("a") as file:
                write(file)
            assert heard() == written
    finally:
        follower.kill()
        follower.wait()


def test_a_record_is_one_line_of_at_most_16_kib_however_much_is_in_it(logged: Path) -> None:
    get_logger().info("test.long", text="é\n" * 50_000, many={f"k{i}": "v" * 900 for i in range(100)})
    get_logger().info("test.wide", **{f"key{i}": i for i in range(5_000)})
    get_logger().info("test.short", text="s")
    lines = logged.read_bytes().splitlines()
    assert len(lines) == 3 and all(len(line) <= MAX_RECORD_BYTES for line in lines)
    long, wide, short = map(json.loads, lines)
    assert long["cut"] and wide["cut"] and "cut" not in short
    assert {"ts", "level", "component", "child", "pid"} <= set(long) & set(wide)
    assert long["event"] == "test.long" and long["text"].startswith("é\n")


SECRET = "Zq7-s3cr3t_9"
CARRIERS = (
    "Authorization: Bearer {}", "authorization='Basic {}'", "https://user:{}@host/x", '{{"apiSecret": "{}"}}', "token={}&a=1",
    "https://discord.com/api/webhooks/123456/{}", "https://api.telegram.org/bot{}/send", "tgram://{}/chat",
    "APCA-API-SECRET-KEY: {}",
    "discord://1234/{}", "https://hooks.slack.com/services/T0/B0/{}", "mailtos://me:{}@gmail.com", "password = {}",
    "set-cookie: {}",
)  # fmt: skip
SECRET_KEYS = ("secret", "api_key", "apiKey", "password", "passphrase", "Authorization", "APCA-API-KEY-ID", "bot_token")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_secret_survives_at_any_depth_in_any_form(data: st.DataObject) -> None:
    carried = st.one_of(
        st.sampled_from(CARRIERS).map(lambda c: c.format(SECRET)),
        st.sampled_from(SECRET_KEYS).map(lambda k: {k: SECRET}),
        st.sampled_from(SECRET_KEYS).map(lambda k: {k: [SECRET, {"inner": SECRET}]}),
        st.sampled_from(CARRIERS).map(lambda c: ValueError(c.format(SECRET))),  # not a text yet: rendered as one later
    )
    nested = st.recursive(
        carried, lambda inner: st.one_of(st.lists(inner, max_size=3), st.fixed_dictionaries({"k": inner}))
    )
    event = {"event": "test.event", "facts": data.draw(nested), "error": data.draw(carried)}
    assert SECRET not in render(None, "", redact(None, "", event))


def test_a_secret_in_a_traceback_or_a_librarys_record_does_not_reach_the_file(logged: Path) -> None:
    try:
        int(f"GET https://x/?api_key={SECRET}")
    except ValueError:
        get_logger().exception("test.raised")
        logging.getLogger("somelibrary").exception("headers: %s", {"Authorization": f"Bearer {SECRET}"})
    text = logged.read_text()
    assert "ValueError" in text and "test.raised" in text and SECRET not in text


def test_what_a_full_disk_swallows_is_counted_and_told_when_there_is_room(tmp_path: Path) -> None:
    handler = RecordFile(tmp_path / "gone" / "x.jsonl")
    (tmp_path / "gone").write_text("a file where the directory should be: no record can be written")
    for n in range(7):
        handler.emit(logging.makeLogRecord({"msg": json.dumps({"event": "test.line", "n": n, "child": "x"})}))
    assert handler.dropped == 7
    (tmp_path / "gone").unlink()
    handler.emit(logging.makeLogRecord({"msg": json.dumps({"event": "test.line", "n": 7, "child": "x"})}))
    handler.close()
    told, line = map(json.loads, (tmp_path / "gone" / "x.jsonl").read_text().splitlines())
    assert (told["event"], told["dropped"], told["child"]) == ("log.dropped", 7, "x") and line["n"] == 7


def events_in_source() -> dict[str, set[str]]:
    """Event name → files, from every call on a logger and every Note; anything but a plain name is kept as source text."""
    found: dict[str, set[str]] = {"log.dropped": {"daemon/child/log_file.py"}}
    for path in (p for package in PACKAGES for p in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name: ast.expr | None = None
            if (
                isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and LOGGER.search(ast.unparse(node.func.value))
            ):
                name = node.args[0]
            elif ast.unparse(node.func) == "Note":
                name = next((k.value for k in node.keywords if k.arg == "event"), None)
            elif ast.unparse(node.func) == "self._note" and node.args:  # the supervisor's: to its log and its database
                name = node.args[0]
            if name is not None and not (
                isinstance(name, ast.Name) and name.id == "event"
            ):  # a Note being written down
                text = name.value if isinstance(name, ast.Constant) else ast.unparse(name)
                found.setdefault(str(text), set()).add(str(path.relative_to(ROOT)))
    return found


LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
LOGGER = re.compile(r"(^|[._])(log|get_logger\(\))$")


def test_every_event_in_the_source_is_documented_and_every_documented_event_exists() -> None:
    listed = set(re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "events.md").read_text(), re.MULTILINE))
    found = events_in_source()
    assert {n: f for n, f in found.items() if not re.fullmatch(r"[a-z_]+\.[a-z_]+", n)} == {}
    assert {n: f for n, f in found.items() if n not in listed} == {}
    assert listed - set(found) == set()
