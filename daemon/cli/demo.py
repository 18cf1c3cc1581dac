"""`cappuccinoctl demo`: train, judge and paper-trade on the simulated market, with one murder, in a few minutes.

Everything is the real thing: the supervisor, its children, the study, the gates and the trader run as they do in
service; only the market is simulated and its clock runs fast. The simulated world, its seed and its signal are
chosen so that there is something to find (docs/decisions.md); nothing here is performance.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from textwrap import shorten
from typing import Any

from daemon.child.clock import SystemClock
from daemon.child.config import load_config
from daemon.cli import parser, shipped_config
from daemon.cli.common import begin
from daemon.cli.status import current
from daemon.status.record import Status
from daemon.status.render import span
from features.errors import CappuccinoError
from features.files import write_atomic

SETTINGS = (
    "market.source=simulated", "simulation.world=planted", "simulation.seed=26", "simulation.bars=26616",
    "simulation.oracle_sharpe=10.0", "data.judge_start_utc=2022-10-01T00:00:00Z", "data.end_utc=2024-01-01T00:00:00Z",
    "data.n_folds=2", "data.holdout_share=0.25", "study.name=demo", "study.target_trials=8", "study.workers=2",
    "study.train_steps=300000", "study.accounts=128", "study.sampler_startup_trials=4",
    "promotion.without_champion=equal_weight", "promotion.seeds=1", "promotion.ensemble_members=1", "promotion.cross_validated=0",
    "paper.clock=replay", "paper.replay_start_utc=2024-01-01T00:00:00Z",
    "paper.replay_bars_per_s=30.0", "paper.start_without_champion=false", "advisor.every_trials=4",
    "advisor.poll_s=2.0", "janitor.every_s=20.0", "janitor.floor_free_bytes=200000000", "janitor.resume_free_bytes=300000000",
    "janitor.warn_free_bytes=1000000000",
)  # fmt: skip
KILL_AT_BAR = 120
POLL_S = 0.5
LINE_EVERY_S = 5.0
REASON_CHARACTERS = 160


def main(verb: str, argv: list[str]) -> int:
    arguments = parser(verb, __doc__).parse_args(argv)
    with contextlib.redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        ended = _run(arguments, SystemClock())
    if arguments.json:
        print(json.dumps(ended))
    return 0 if ended["killed_at_bar"] and not ended["lost_bars"] and not ended["mismatches"] else 1


def _run(arguments: argparse.Namespace, clock: SystemClock) -> dict[str, Any]:
    config = load_config(shipped_config(), arguments.config, [*SETTINGS, *arguments.overrides])
    default = Path("demo-state") / f"{clock.now_utc():%Y%m%dT%H%M%SZ}"
    state_dir = (arguments.state_dir or default).resolve()
    config = replace(config, run=replace(config.run, state_dir=str(state_dir)))
    begin(state_dir)
    given = state_dir / "demo.json"
    write_atomic(given, config.to_json().encode())
    began_s = clock.monotonic_s()
    print(f"cappuccino demo: {config.study.target_trials} trials by {config.study.workers} workers in the simulated")
    print(f"`{config.simulation.world}` world, then a fortnight of paper trading. State and logs: {state_dir}\n")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # an end like any other: the daemon's too
    command = [sys.executable, "-P", "-m", "daemon", "run", "--until-finished", "--config", str(given)]
    with (state_dir / "demo.out").open("wb") as output:
        daemon = subprocess.Popen([*command, "--state-dir", str(state_dir)], stdout=output, stderr=output)
    try:
        watcher = _Watcher(state_dir, daemon, began_s)
        watcher.watch(clock)
    except BaseException:
        daemon.terminate()
        daemon.wait(60)
        raise
    return _last_screen(state_dir, given, watcher, clock.monotonic_s() - began_s)


class _Watcher:
    """Prints what happens while the daemon runs, and kills the trader once."""

    def __init__(self, state_dir: Path, daemon: subprocess.Popen[bytes], began_s: float) -> None:
        self._state_dir, self._daemon, self._began_s = state_dir, daemon, began_s
        self.killed: dict[str, Any] | None = None
        self._printed: dict[str, Any] = {}
        self._line_due_s = 0.0

    def watch(self, clock: SystemClock) -> None:
        while self._daemon.poll() is None:
            clock.sleep(POLL_S)
            try:
                status = current(self._state_dir)
            except CappuccinoError:  # it has not opened its socket yet, or has just closed it
                continue
            if not status.daemon.down:
                self._show(status, clock.monotonic_s() - self._began_s)
                self._kill_once(status, clock.monotonic_s() - self._began_s)
        if self._daemon.returncode != 0:
            text = (self._state_dir / "demo.out").read_text()
            raise CappuccinoError(f"the daemon ended with exit {self._daemon.returncode}:\n{text[-2000:]}")

    def _show(self, status: Status, at_s: float) -> None:
        study, champion, paper = status.study, status.champion, status.paper
        fresh = {"finished": study.finished, "champion": champion and champion.reason}
        if fresh == self._printed and at_s < self._line_due_s:
            return
        if champion and fresh["champion"] != self._printed.get("champion"):
            reason = shorten(champion.reason, REASON_CHARACTERS, placeholder=" … (the report is at the end)")
            print(f"{span(at_s):>12}  judged: {reason}")
        self._printed, self._line_due_s = fresh, at_s + LINE_EVERY_S
        if champion is None or study.finished < study.target:
            notes = [c.note for c in status.children if c.kind == "worker" and c.pid and c.note]
            best = f"best score {study.best.score:+.2f}" if study.best else "no score yet"
            print(f"{span(at_s):>12}  " + "; ".join([f"{study.complete}/{study.target} trials, {best}", *notes]))
        elif paper and paper.total_bars:
            print(
                f"{span(at_s):>12}  paper bar {paper.processed_bars}/{paper.total_bars} {paper.last_close_utc}, "
                f"equity {paper.equity:.2f}, {paper.decisions} decisions, {paper.fills} fills"
            )

    def _kill_once(self, status: Status, at_s: float) -> None:
        paper = status.paper
        trader = next(c for c in status.children if c.name == "paper_trader")
        if self.killed or not paper or paper.processed_bars < KILL_AT_BAR or trader.pid is None:
            return
        os.kill(trader.pid, signal.SIGKILL)
        self.killed = {"pid": trader.pid, "processed_bars": paper.processed_bars, "fills": paper.fills}
        print(
            f"{span(at_s):>12}  kill -9 {trader.pid}: the trader dies at bar {paper.processed_bars}, equity "
            f"{paper.equity:.2f}; the supervisor starts it again"
        )


def _last_screen(state_dir: Path, given: Path, watcher: _Watcher, took_s: float) -> dict[str, Any]:
    """What came of it: all is well only if every decision was re-derived and the kill lost nothing."""
    report = max((state_dir / "reports").glob("judgement-*.txt")).read_text()
    verified = json.loads(_program("paper_trader", "verify", given, state_dir, "--json"))
    paper = json.loads((state_dir / "paper" / "status.json").read_bytes())
    lost = paper["total_bars"] - paper["processed_bars"]
    print("\n" + "=" * 110 + "\n\n" + report)
    print("paper trading, the same bars and costs for everybody:")
    print(_program("paper_trader", "report", given, state_dir))
    killed = watcher.killed
    if killed:
        print(f"the trader was killed with SIGKILL at bar {killed['processed_bars']}, after {killed['fills']} fills;")
        print(f"it went on to bar {paper['processed_bars']} of {paper['total_bars']}: {lost} bars lost")
    else:
        print("the trader was NOT killed: the replay was over first")
    print(
        f"{verified['decisions']} decisions, {verified['fills']} fills and {verified['marks']} account marks re-derived"
    )
    print(f"from the stored bars by the training path: {len(verified['mismatches'])} mismatches")
    champion = json.loads((state_dir / "champion.json").read_bytes())["champion"]
    if champion is None:
        print("no champion is a normal verdict: eight short trials seldom show more than luck would")
    print(f"took {span(took_s)}; artifacts, reports, logs and the paper journal: {state_dir}")
    return {
        "schema": 1, "champion": champion, "killed_at_bar": killed and killed["processed_bars"], "lost_bars": lost,
        "decisions": verified["decisions"], "mismatches": verified["mismatches"], "took_s": round(took_s, 1),
        "state_dir": str(state_dir),
    }  # fmt: skip


def _program(module: str, verb: str, given: Path, state_dir: Path, *options: str) -> str:
    command = [
        sys.executable,
        "-P",
        "-m",
        module,
        verb,
        "--config",
        str(given),
        "--state-dir",
        str(state_dir),
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 78):
        raise CappuccinoError(done.stderr.strip() or f"{module} {verb} ended with exit {done.returncode}")
    return done.stdout
