"""A language model as a proposer: off it opens no socket, on it can be as wrong or as hostile as it likes."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from language_model import Reply, language_model, proposes, says
from simulated_study import BOUNDS, draw, trials

from daemon.advisor.desk import Desk
from daemon.advisor.shell import Advisor
from daemon.child.advice import Standing, folder
from daemon.child.clock import ManualClock
from daemon.child.config import Config, parse
from daemon.child.logs import configure_logging, get_logger
from features.errors import ConfigurationError
from features.files import read_jsonl, write_atomic

TIMEOUT_S = 1.0
MOST = 3
RAN = trials(5, n=45, k=2)
GOOD = draw(np.random.default_rng(9))
PATHS = {"../../etc/passwd": 1, "/root/.ssh/id_rsa": "x", "study.db'; DROP TABLE trials;--": 0}
HOSTILE = "\x1b]0;owned\x07 <script>alert(1)</script> [click](file:///etc/passwd) `rm -rf` | a | b"


def config(address: str = "http://127.0.0.1:9/v1", *, enabled: bool = True, **llm: Any) -> Config:
    return parse({
        "study": {"name": "s", "target_trials": 400}, "advisor": {"trial_share": 0.2, "every_trials": 10},
        "run": {"credentials_dir": "/nonexistent"},
        "llm": {"enabled": enabled, "address": address, "model": "m", "timeout_s": TIMEOUT_S, "max_proposals": MOST, **llm},
    })  # fmt: skip


def housed(state_dir: Path) -> Path:
    """A state directory as trainer and workers leave it: records beside an Optuna study of the same trials."""
    space = {
        n: {"choices": list(b.choices)} if b.choices else {"low": b.low, "high": b.high, "log": b.log, "integer": b.high == 10.0}
        for n, b in BOUNDS.items()
    }  # fmt: skip
    write_atomic(state_dir / "trials" / "s" / "space.json", json.dumps(space).encode())
    for t in RAN:
        record = {"study": "s", "number": t.number, "state": t.state, "score": t.score, "parameters": dict(t.parameters),
                  "seconds": t.seconds, "failure": None}  # fmt: skip
        write_atomic(state_dir / "trials" / "s" / str(t.number) / "trial.json", json.dumps(record).encode())
    study = optuna.create_study(storage=f"sqlite:///{state_dir / 'study.db'}", study_name="s", direction="maximize")
    study.add_trial(optuna.trial.create_trial(value=1.0, params={}, distributions={}))
    study._storage.remove_session()
    write_atomic(state_dir / "champion.json", json.dumps({"study": "other", "champion": None}).encode())
    write_atomic(state_dir / "holdout.jsonl", b"")
    return state_dir


def advisor(state_dir: Path, configured: Config) -> Advisor:
    return Advisor(config=configured, state_dir=state_dir, clock=ManualClock(), log=get_logger(), evidence=lambda: None,
                   workers=lambda: 1)  # fmt: skip


def everything(state_dir: Path) -> dict[str, bytes]:
    """All that is not the advisor's own."""
    return {
        str(p.relative_to(state_dir)): p.read_bytes() for p in sorted(state_dir.rglob("*"))
        if p.is_file() and p.relative_to(state_dir).parts[0] not in ("advice", "run", "logs")
    }  # fmt: skip


def proposed(state_dir: Path) -> list[dict[str, Any]]:
    return [r for r in read_jsonl(state_dir / "advice" / "audit.jsonl") if r.get("proposer") == "llm"]


TOO_DEEP = '{"proposals": ' + "[" * 20_000 + "]" * 20_000 + "}"


def without(name: str) -> dict[str, Any]:
    return {n: v for n, v in GOOD.items() if n != name}


NAN = '{"proposals": [{"params": {}, "hypothesis": "h", "predicted_delta": NaN, "confidence": 0.5}]}'
BAD: dict[str, tuple[Reply, ...]] = {
    "range": (proposes({**GOOD, "p02": 1.5}), proposes({**GOOD, "p03": 10**60})),
    "choice": (proposes({**GOOD, "p01": "z"}), proposes({**GOOD, "p07": 1}), proposes({**GOOD, "p01": ["a"]})),
    "type": (proposes({**GOOD, "p03": 3.5}), proposes({**GOOD, "p02": "0.5"}), proposes({**GOOD, "p02": None})),
    "unknown": (proposes({**GOOD, "leverage": 10}), proposes({**GOOD, **PATHS}, hypothesis=HOSTILE)),
    "missing": (proposes(without("p04")), proposes({})),
    "duplicate": (proposes(dict(RAN[7].parameters)),),
    "malformed": (
        says("Sure! Here is my proposal: lower the learning rate."), says("```json\n{}\n```"), says(NAN), says(TOO_DEEP),
        says('{"proposals": [], "proposals": []}'), says('{"proposals": [1]}'), says("9" * 5000),
        proposes(GOOD, confidence=7), proposes(GOOD, run="rm -rf /"), proposes(GOOD, hypothesis=5),
        Reply(body=b"<html>busy</html>"), Reply(body=b"\xff\xfe\x00"), Reply(body=b'{"choices": []}'),
        Reply(raw=b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), Reply(body=b'{"choices"', cut=True),
    ),
    "too large": (proposes(GOOD, hypothesis="x" * 10_000_000), Reply(body=b"A" * 65_536, endless=True)),
    "timeout": (Reply(hang=True), Reply(body=b"x" * 400, drip=True)),
    "unreachable": (Reply(status=404), Reply(status=401, body=b"{}")),
}  # fmt: skip


def test_every_bad_reply_is_handled_counted_and_logged_and_the_study_is_untouched(tmp_path: Path) -> None:
    state_dir = housed(tmp_path)
    configure_logging(component="advisor", child="advisor", path=state_dir / "logs" / "advisor.jsonl")
    advisor(state_dir, config(enabled=False))._advise_and_act()  # what the advisor proposes by itself is there before
    standing = (folder(state_dir, "s") / "standing.json").read_bytes()
    took_s, made = [], advisor(state_dir, config()).advise()
    before = everything(state_dir)
    for reason, reply in ((reason, reply) for reason, replies in BAD.items() for reply in replies):
        with language_model(reply) as server:
            at = advisor(state_dir, config(server.address))
            began_s = time.monotonic()
            at.consult(made)
            took_s.append(time.monotonic() - began_s)
        last = proposed(state_dir)[-1]
        assert (last["event"], last["reason"]) == ("refused", reason), (reply, last)
        assert (
            len(json.dumps(last)) < 20_000
            and "\x1b" not in last["detail"]
            and "<" not in last["detail"].replace("<'", "")
        )
    counts = {r: n for (who, r), n in at.desk.book().refused.items() if who == "llm"}
    assert counts == {reason: len(replies) for reason, replies in BAD.items()}
    assert everything(state_dir) == before
    assert (folder(state_dir, "s") / "standing.json").read_bytes() == standing
    logged = [r for r in map(json.loads, (state_dir / "logs" / "advisor.jsonl").read_text().splitlines())
              if r["event"] == "advice.refused"]  # fmt: skip
    assert len(logged) == len(took_s)
    print(f"{len(took_s)} bad replies, refused: {counts}; longest {max(took_s):.1f} s, the limit {TIMEOUT_S:g} s")
    assert max(took_s) < TIMEOUT_S + 2.0


def test_a_valid_reply_is_queued_beside_a_control_like_anybodys_and_its_words_are_harmless(tmp_path: Path) -> None:
    state_dir = housed(tmp_path)
    with language_model(Reply(status=503), Reply(status=429), proposes(GOOD, hypothesis=HOSTILE)) as server:
        at = advisor(state_dir, config(server.address, timeout_s=20.0))
        at.consult(at.advise())
        assert len(server.questions) == 3 and server.paths == ["/v1/chat/completions"] * 3 and server.keys == [None] * 3
    (source,) = Standing.read(state_dir, "s").sources
    assert (source.parameters, source.paired, source.pairs) == (GOOD, True, 1)
    experiment = at.desk.find("llm")
    (proposal,) = experiment.proposals.values()
    assert (proposal.predicted_delta, proposal.confidence) == (0.3, 0.6)
    assert (
        proposal.hypothesis
        == "]0;owned script alert(1) /script click (file:///etc/passwd) rm -rf a b".replace("]", "").strip()
    )
    asked = next(r for r in proposed(state_dir) if r["event"] == "asked")
    assert asked["model"] == "stand-in:1b" and len(asked["prompt_sha256"]) == len(asked["reply_sha256"]) == 64
    said = at.advise().path.read_text()
    assert "1 configuration of llm" in said and "<script" not in said


def test_more_proposals_than_asked_for_are_counted_and_not_read(tmp_path: Path) -> None:
    state_dir = housed(tmp_path)
    many = [{**GOOD, "p02": k / 1000} for k in range(20)]
    with language_model(proposes(*many)) as server:
        at = advisor(state_dir, config(server.address))
        at.consult(at.advise())
    assert len(Standing.read(state_dir, "s").sources) == MOST and at.desk.book().refused["llm", "limit"] == MOST


def test_the_model_sees_the_analysis_and_nothing_else_and_the_key_goes_nowhere_else(tmp_path: Path) -> None:
    state_dir, keys = housed(tmp_path / "state"), tmp_path / "keys"
    keys.mkdir()
    (keys / "llm_api_key").write_text("sk-secret\n")
    (keys / "llm_api_key").chmod(0o600)
    with (
        language_model(proposes(GOOD)) as elsewhere,
        language_model(Reply(status=307, location=elsewhere.address + "/chat/completions")) as server,
    ):
        given = json.loads(config(server.address).to_json()) | {"run": {"credentials_dir": str(keys)}}
        at = advisor(state_dir, parse(given))
        at.consult(at.advise())
        assert server.keys == ["Bearer sk-secret"] and elsewhere.questions == []
        (question,) = server.questions
    assert at.desk.book().refused["llm", "unreachable"] == 1
    seen = json.loads(question["messages"][1]["content"])
    assert {"rows", "space", "facts"} <= seen.keys() <= {
        "score_name", "n_complete", "target", "facts", "top_three", "agreement", "rows", "routes", "experiments", "space"
    }  # fmt: skip
    assert str(state_dir) not in json.dumps(question) and "secret" not in json.dumps(question)
    assert b"sk-secret" not in b"".join(p.read_bytes() for p in state_dir.rglob("*") if p.is_file())


def test_nobody_listening_is_an_answer_too(tmp_path: Path) -> None:
    state_dir = housed(tmp_path)
    at = advisor(state_dir, config("http://127.0.0.1:9/v1", timeout_s=20.0))
    at.consult(at.advise())
    assert at.desk.book().refused == {("llm", "unreachable"): 1}


SOCKETS: list[str] = []
WATCHING = [False]


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if WATCHING[0] and event.startswith("socket."):
        SOCKETS.append(event)


def test_when_it_is_off_no_socket_is_opened(tmp_path: Path) -> None:
    """Python's own audit says so; the same watch sees the connection when it is on."""
    sys.addaudithook(_watch)
    state_dir = housed(tmp_path)
    for enabled in (False, True):
        SOCKETS.clear()
        WATCHING[0] = True
        try:
            advisor(state_dir, config(enabled=enabled))._advise_and_act()
        finally:
            WATCHING[0] = False
        assert ("socket.connect" in SOCKETS) == enabled and (enabled or SOCKETS == [])
    code = "import sys; import daemon.advisor.__main__; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_desk_of_a_stopped_advisor_is_not_kept_waiting_by_a_silent_model(tmp_path: Path) -> None:
    state_dir = housed(tmp_path)
    with language_model(Reply(hang=True)) as server:
        given = config(server.address, timeout_s=300.0)
        at = Advisor(config=given, state_dir=state_dir, clock=ManualClock(), log=get_logger(), evidence=lambda: None,
                     workers=lambda: 1, should_stop=lambda: len(server.questions) > 0)  # fmt: skip
        made, began_s = at.advise(), time.monotonic()
        at.consult(made)
        assert time.monotonic() - began_s < 10.0


WRONG = [
    ({"address": "file:///etc/passwd"}, "llm.address"), ({"address": "http://key@host/v1"}, "llm.address"),
    ({"model": ""}, "llm.model"), ({"timeout_s": 3600.0}, "llm.timeout_s"), ({"max_proposals": 0}, "max_proposals"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "why"), WRONG)
def test_a_configuration_that_cannot_work_is_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        config(**wrong)


def test_no_share_no_trial(tmp_path: Path) -> None:
    state_dir = housed(tmp_path)
    given = json.loads(config(enabled=False).to_json())
    given["advisor"]["trial_share"] = 0.0
    advisor(state_dir, parse(given))._advise_and_act()
    at = Desk(state_dir=state_dir, study="s", clock=ManualClock(), log=get_logger(), target=1, share=0.0)
    assert at.book().experiments == {} and not (state_dir / "advice" / "audit.jsonl").exists()
