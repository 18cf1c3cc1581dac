"""The control socket on a real supervisor: who may ask, what it costs, what scale, drain, pause and reload do."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stage import Stage, staged

from daemon import control
from daemon.child.config import Config, parse
from daemon.fleet import READS, fleet_of, specs_of
from daemon.requests import VERBS, Refused, events_for
from features.errors import CappuccinoError
from features.files import write_atomic

ALL = {"worker": ("trials", "0.5"), "paper_trader": ("work", ""), "janitor": ("work", ""), "advisor": ("work", "")}
FLEET = fleet_of(Config(), specs_of(Config(), Path("/x")))
LONG = {"worker_hang_s": 900.0, "trader_hang_s": 900.0, "service_hang_s": 900.0}


def test_the_socket_answers_while_every_child_hangs_and_a_silent_client_waits(tmp_path: Path) -> None:
    with staged(tmp_path, ALL, daemon=LONG) as stage:
        for pid in stage.pids().values():
            os.kill(pid, signal.SIGSTOP)
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(control.socket_path(tmp_path)))
            took_s = []
            for _ in range(100):
                began_s = time.perf_counter()
                stage.ask("status")
                took_s.append(time.perf_counter() - began_s)
            assert np.median(took_s) < 0.25
            silent.settimeout(5.0)
            assert silent.recv(1) == b""  # dropped, in its own time


def test_only_the_owner_and_root_may_control_whatever_the_file_mode_says(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can ask as somebody else")
    with staged(tmp_path, {"paper_trader": ("work", "")}):
        path = control.socket_path(tmp_path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        path.chmod(0o666)
        for folder in (path.parent, *path.parent.parents):
            if folder == Path("/tmp"):
                break
            folder.chmod(folder.stat().st_mode | 0o055)
        code = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
            's.sendall(b\'{"verb":"stop","protocol":1}\\n\'); print(s.recv(9999).decode())'
        )
        asked = subprocess.run(
            ["/usr/bin/python3", "-c", code, str(path)], user=65534, group=65534, extra_groups=[], capture_output=True,
            text=True, check=False, cwd="/",
        )  # fmt: skip
        assert "user 65534 may not control the daemon" in asked.stdout, asked.stderr
        assert control.ask(tmp_path, "status")["status"]["daemon"]["state"] == "running"


def test_nonsense_is_answered_with_what_is_wrong_and_the_daemon_goes_on(tmp_path: Path) -> None:
    with staged(tmp_path, {"paper_trader": ("work", "")}) as stage:
        for sent, words in (
            (b"{\n", "cannot be read"), (b"[]\n", "a JSON object with a verb"), (b'{"verb": 3}\n', "with a verb"),
            (b'{"verb":"status","protocol":2}\n', "speaks protocol 1, the request 2"), (b"\xff\xfe\n", "cannot be read"),
            (b'{"verb":"fly","protocol":1}\n', "unknown verb 'fly'"),
            (b'{"verb":"restart","protocol":1,"child":["x"]}\n', "no child is called ['x']"),
            (b'{"verb":"scale","protocol":1,"workers":true}\n', "cannot scale to True"),
            (b'{"verb":"fly","protocol":1,"event":"x","name":"y","by_uid":1,"self":2}\n', "unknown verb 'fly'"),
            (b"[" * 60_000 + b"\n", "cannot be read"),
            (b'{"verb":"restart","protocol":1,"child":' + b"[" * 700 + b"]" * 700 + b"}\n", "no child is called"),
        ):  # fmt: skip
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5.0)
                client.connect(str(control.socket_path(tmp_path)))
                client.sendall(sent)
                assert words in json.loads(client.makefile().readline())["error"], sent
        with socket.socket(socket.AF_UNIX) as flood:
            flood.settimeout(5.0)
            flood.connect(str(control.socket_path(tmp_path)))
            with pytest.raises(OSError, match=r"reset|pipe"):
                flood.sendall(b"x" * 10_000_000)
        assert stage.all_beating()


@settings(max_examples=300, deadline=None)
@given(
    request=st.fixed_dictionaries(
        {"verb": st.sampled_from(VERBS) | st.text()},
        optional={"child": st.sampled_from(["worker-0", "janitor"]) | st.text() | st.integers()},
    )
)
def test_a_request_is_events_or_a_refusal_that_says_why(request: dict[str, object]) -> None:
    try:
        events, said = events_for(FLEET, request, now_s=1.0)
    except Refused:
        assert request["verb"] not in ("stop", "drain", "pause", "resume")
    else:
        assert events and said


def test_workers_are_scaled_up_and_down_while_they_work(tmp_path: Path) -> None:
    with staged(tmp_path, ALL, study={"workers": 1}) as stage:
        before = stage.pids()
        up = stage.ctl("scale", "4", "--wait")
        assert up.returncode == 0 and "added worker-1, worker-2, worker-3" in up.stdout, up.stderr
        assert len(stage.pids()) == 7
        down = stage.ctl("scale", "2", "--wait")
        assert down.returncode == 0 and "removed worker-2, worker-3" in down.stdout
        assert sorted(stage.children()) == ["advisor", "janitor", "paper_trader", "worker-0", "worker-1"]
        assert before.items() <= stage.pids().items()  # nobody else was touched
        ended = [t for t in trials(tmp_path) if t["worker"] in ("worker-2", "worker-3")]
        assert ended[-1]["what"] in ("handed back", "complete")
        refused = stage.ctl("scale", "1000")
        assert refused.returncode == 1 and "daemon.max_workers is 64" in refused.stderr
        with pytest.raises(CappuccinoError, match="give a number"):
            stage.ask("scale", workers=-1)


def trials(state_dir: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (state_dir / "trials.jsonl").read_text().splitlines()]


def test_draining_lets_every_worker_finish_its_trial_and_then_stops_the_daemon(tmp_path: Path) -> None:
    with staged(tmp_path, {**ALL, "worker": ("trials", "3")}, study={"workers": 3}) as stage:
        assert stage.process is not None
        stage.configure(study={"workers": 3, "train_steps": 7000})  # would restart them in the middle of their trials
        stage.ask("drain")
        for verb, given in (("scale", {"workers": 4}), ("reload", {})):
            with pytest.raises(CappuccinoError, match="the workers finish their trials, then all stops"):
                stage.ask(verb, **given)
        done = stage.ctl("drain", "--wait")
        assert done.returncode == 0, done.stderr
        assert stage.process.wait(10) == 0
        for name in ("worker-0", "worker-1", "worker-2"):
            mine = [t["what"] for t in trials(tmp_path) if t["worker"] == name]
            assert mine[-1] == "complete" and "handed back" not in mine
        ended = [e["name"] for e in stage.log("child.exited")]
        assert ended[-1] == "paper_trader" and set(ended[:3]) == {"worker-0", "worker-1", "worker-2"}


def test_a_pause_hands_trials_back_and_keeps_what_was_asked_of_each_worker(tmp_path: Path) -> None:
    with staged(tmp_path, ALL, study={"workers": 3}) as stage:
        trader = stage.pids()["paper_trader"]
        assert stage.ctl("stop", "worker-2", "--wait").returncode == 0
        assert stage.ctl("pause").returncode == 0
        stage.until(lambda: not any("worker" in n for n in stage.pids()))
        assert stage.ask("status")["status"]["daemon"]["state"] == "paused"
        assert "training is paused: it begins with resume" in stage.ctl("restart", "worker-0").stdout
        assert "paused" not in stage.ctl("restart", "janitor", "--wait").stdout
        assert stage.ctl("resume").returncode == 0
        stage.until(lambda: {"worker-0", "worker-1"} <= set(stage.pids()))
        assert "worker-2" not in stage.pids() and stage.pids()["paper_trader"] == trader


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"study": {"worker": 2}}', "unknown key study.worker"), ('{"studdy": {}}', "unknown section [studdy]"),
        ('{"costs": {"fee_bps": -1.0}}', "costs.fee_bps must not be negative"), ('{"study": {', "is not valid"),
        ('{"daemon": {"stop_grace_trader_s": 60.0}}', "a full stop must be over within 50 s"),
        ('{"daemon": {"worker_cpus": "x"}}', "daemon.worker_cpus is 'x'"), ('{"study": {"workers": 99}}', "daemon.max_workers"),
        ('{"run": {"state_dir": "/elsewhere"}}', "run.state_dir cannot change"),
        ('{"run": {"state_dir": "~nobody-of-this-name/x"}}', "run.state_dir is"),
        ('{"study": {"ranges": ["widht=32"]}}', "'widht' is not searched here"),
    ],
)  # fmt: skip
def test_a_bad_file_changes_nothing_and_the_reload_says_what_is_wrong(
    stage_of_the_module: Stage, text: str, words: str
) -> None:
    stage = stage_of_the_module
    before, in_force = stage.pids(), (stage.state_dir / "config.json").read_bytes()
    here = f'{{"run": {{"state_dir": "{stage.state_dir}"}}, '
    (stage.state_dir / "given.json").write_text(text if "run" in text else here + text[1:])
    refused = stage.ctl("reload", "--wait")
    assert refused.returncode == 1 and words in refused.stderr
    assert stage.pids() == before and (stage.state_dir / "config.json").read_bytes() == in_force
    assert words in stage.log("config.refused")[-1]["reason"]


@pytest.mark.parametrize("data", [b'{"study": {"name": "caf\xe9"}}', b"[]", b"3", b"[" * 100_000])
def test_a_file_that_holds_no_text_or_no_sections_is_refused_however_it_is_asked_for(
    stage_of_the_module: Stage, data: bytes
) -> None:
    stage = stage_of_the_module
    before, refusals = stage.pids(), len(stage.log("config.refused"))
    (stage.state_dir / "given.json").write_bytes(data)
    assert "is not valid" in stage.ctl("reload", "--wait").stderr
    assert stage.process is not None
    stage.process.send_signal(signal.SIGHUP)
    stage.until(lambda: len(stage.log("config.refused")) == refusals + 2)
    assert stage.pids() == before


def test_the_supervisor_goes_on_whatever_lies_where_the_other_programs_write_their_status(tmp_path: Path) -> None:
    with staged(tmp_path, ALL, study={"workers": 1}) as stage:
        before = stage.pids()
        for name in ("champion.json", "paper/status.json", "advice/latest.json", "trials/default/0/trial.json"):
            write_atomic(tmp_path / name, b"{}")
        shown = stage.until(lambda: [a for a in stage.ask("status")["status"]["alerts"] if "not shown" in a["text"]])
        assert len(shown) == 4 and all(a["remedy"] for a in shown)
        assert stage.pids() == before


@pytest.fixture(scope="module")
def stage_of_the_module(tmp_path_factory: pytest.TempPathFactory):
    with staged(tmp_path_factory.mktemp("reload"), ALL, study={"workers": 2}) as stage:
        yield stage


WORKERS = {"worker-0", "worker-1"}


@pytest.mark.parametrize(
    ("section", "key", "value", "concerned"),
    [
        ("study", "train_steps", 7000, WORKERS), ("costs", "fee_bps", 9.0, {*WORKERS, "paper_trader"}),
        ("paper", "stale_after_s", 9.0, {*WORKERS, "paper_trader"}), ("risk", "max_drawdown", 0.2, {"paper_trader"}),
        ("janitor", "keep_top", 7, {"janitor"}),
        ("advisor", "poll_s", 9.0, {"advisor"}), ("daemon", "max_restarts", 9, set()), ("daemon", "worker_nice", 9, WORKERS),
        ("market", "history_bars", 9000, {*WORKERS, "paper_trader"}), ("daemon", "torch_threads", 2, WORKERS),
        ("study", "name", "other", {*WORKERS, "janitor", "advisor"}), ("daemon", "worker_rss_bytes", 7, set()),
    ],
)  # fmt: skip
def test_a_changed_key_concerns_the_children_that_read_it_and_no_others(
    tmp_path: Path, section: str, key: str, value: object, concerned: set[str]
) -> None:
    old, new = Config(), parse({section: {key: value}})
    pairs = zip(specs_of(old, tmp_path), specs_of(new, tmp_path), strict=True)
    assert {a.name for a, b in pairs if a.needs_restart(b)} == concerned


def test_a_reload_restarts_those_and_leaves_the_others_alone(tmp_path: Path) -> None:
    with staged(tmp_path, ALL, study={"workers": 2}) as stage:
        for change, concerned in (
            ({"janitor": {"keep_top": 7}}, {"janitor"}), ({"daemon": {"max_restarts": 9}}, {"janitor"}),
            ({"study": {"workers": 2, "train_steps": 7000}}, WORKERS), ({}, WORKERS), ({}, set()),
        ):  # fmt: skip
            before = stage.pids()
            stage.configure(**{"study": {"workers": 2}, **change})
            done = stage.ctl("reload", "--wait")
            assert done.returncode == 0, done.stderr
            assert {n for n, pid in stage.pids().items() if pid != before[n]} == concerned, done.stdout
            in_force = json.loads((tmp_path / "config.json").read_bytes())
            assert all(in_force[s][k] == v for s, keys in change.items() for k, v in keys.items())


def test_a_reload_is_over_when_the_last_of_those_that_start_one_after_the_other_is_up(tmp_path: Path) -> None:
    pace = {"daemon": {"spawn_pace_s": 1.0}}
    with staged(tmp_path, ALL, study={"workers": 3}, **pace) as stage:
        before = stage.pids()
        stage.configure(study={"workers": 3, "train_steps": 7000}, **pace)
        assert stage.ctl("reload", "--wait").returncode == 0
        after = stage.pids()
        assert set(after) == set(before) and sum(after[n] != before[n] for n in before) == 3


def test_a_reload_says_when_a_child_cannot_live_with_the_new_configuration(tmp_path: Path) -> None:
    with staged(tmp_path, {"worker": ("work", ""), "paper_trader": ("work", "")}, study={"workers": 1}) as stage:
        (tmp_path / "parts.json").write_text(json.dumps({"worker": ["die", "78"], "paper_trader": ["work", ""]}))
        trader = stage.pids()["paper_trader"]
        done = stage.ctl("reload", "--wait")
        assert done.returncode == 1 and "given up: worker-0" in done.stderr
        assert stage.pids() == {"paper_trader": trader}


def test_a_client_is_told_when_nobody_listens_and_when_somebody_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(control.DaemonDown):
        control.ask(tmp_path, "status")
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(control.socket_path(tmp_path)))
        mute.listen()
        mute.settimeout(0.1)
        with pytest.raises(CappuccinoError, match="does not answer"):
            control.ask(tmp_path, "status")


def test_waiting_for_the_end_outlasts_a_daemon_that_hangs_up_on_its_way_out(tmp_path: Path) -> None:
    path = control.socket_path(tmp_path)
    path.parent.mkdir()
    answers = [{"status": {"children": []}}, {"done": "stopping"}, None, None]
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        asking = subprocess.Popen(
            [sys.executable, "-m", "daemon", "stop", "--wait", "--state-dir", str(tmp_path)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        for answer in answers:
            client, _ = listening.accept()
            if answer is not None:
                client.recv(65_536)
                client.sendall(control.line(answer))
            client.close()  # with its request unread: a reset, as when a process ends
    assert asking.communicate(timeout=30) == ("stopping\n", None)
    assert asking.returncode == 0


def test_a_child_reads_no_section_that_a_reload_would_not_restart_it_for() -> None:
    """Every `config.<section>` in a program's source, and in what it shares, is among those it is restarted for."""
    import ast

    root = Path(__file__).parents[2]
    shared = [root / "daemon" / "child" / "market.py"]
    programs = {
        "worker": [*(root / "trainer").glob("*.py"), *shared], "paper_trader": [*(root / "paper_trader").rglob("*.py"), *shared],
        "janitor": list((root / "daemon" / "janitor").glob("*.py")), "advisor": list((root / "daemon" / "advisor").glob("*.py")),
        "notifier": list((root / "daemon" / "notifier").glob("*.py")),
    }  # fmt: skip
    known = set(json.loads(Config().to_json()))
    for kind, paths in programs.items():
        read = set()
        for path in paths:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and node.attr in known:
                    owner = node.value
                    name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                    if "config" in name:
                        read.add(node.attr)
        sections = {n.partition(".")[0] for n in READS[kind]}  # type: ignore[index]
        assert read - {"daemon"} <= sections, kind
        if "daemon" in read:  # torch_threads, which is part of a worker's hash by itself
            assert kind == "worker"


def test_the_stage_is_the_real_thing() -> None:
    """The puppets' supervisor differs from the shipped one in the children's commands alone."""
    import stage as module

    source = Path(module.__file__).read_text()
    assert "Supervisor(config=config, state_dir=state_dir, doors=doors).run()" in source
    assert sys.modules["daemon.supervisor"].__file__ == str(Path(__file__).parents[2] / "daemon" / "supervisor.py")
