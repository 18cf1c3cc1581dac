"""The children that a configuration asks for, what each of them reads of it, and what survives a crash of the supervisor."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from daemon.child.config import Config
from daemon.lifecycle import Child, ChildSpec, Fleet, Kind, Limits, Policy, State
from daemon.processes import python_module
from features.errors import ConfigurationError

STOP_BUDGET_S = 50.0  # below TimeoutStopSec=60 of the unit
_MARKET = ("run", "market", "simulation", "features")
_ADVISED = ("study.name", "study.target_trials", "janitor.floor_free_bytes", "market.timeframe_s")
_ACCOUNT = ("costs", "allocation", "account")
# Sections, or single keys, that each program takes (a test reads this off its source); another value there restarts it.
READS: dict[Kind, tuple[str, ...]] = {
    "worker": (*_MARKET, *_ACCOUNT, "data", "study", "promotion", "paper", "advisor.trial_share"),
    "paper_trader": (*_MARKET, *_ACCOUNT, "promotion", "paper", "risk"),
    "janitor": ("run", "janitor", "study.name", "gpu"),
    "advisor": ("run", "advisor", "llm", *_ADVISED),
    "notifier": ("run", "notify"),
}
NOT_READ = ("study.workers",)  # no business of any one of them; the advisor looks anew for each report


def specs_of(config: Config, state_dir: Path) -> tuple[ChildSpec, ...]:
    """The trader first: it is started first and stopped last. Raises ConfigurationError."""
    d = config.daemon
    policy = policy_of(config)
    for key, grace_s, starts_s in (
        ("stop_grace_trader_s", d.stop_grace_trader_s, policy.trader_waits_s), ("stop_grace_s", d.stop_grace_s, 0.0),
        ("stop_grace_worker_s", d.stop_grace_worker_s, 0.0),
    ):  # fmt: skip
        if starts_s + grace_s + policy.reap_s > STOP_BUDGET_S:
            most_s = STOP_BUDGET_S - starts_s - policy.reap_s
            raise ConfigurationError(
                f"daemon.{key} is {grace_s:g}", hint=f"at most {most_s:g}: a full stop must be over within 50 s"
            )
    if config.study.workers > d.max_workers:
        raise ConfigurationError(
            f"study.workers is {config.study.workers}", hint=f"daemon.max_workers is {d.max_workers}"
        )
    trader = _spec(
        config, state_dir, name="paper_trader", kind="paper_trader", module=("paper_trader", "run"),
        hang_s=d.trader_hang_s, grace_s=d.stop_grace_trader_s, finishes=config.paper.clock == "replay",
    )  # fmt: skip
    workers = [
        _spec(
            config, state_dir, name=f"worker-{i}", kind="worker", module=("trainer", "work"), hang_s=d.worker_hang_s,
            grace_s=d.stop_grace_worker_s, finishes=True,
        )
        for i in range(config.study.workers)
    ]  # fmt: skip
    janitor = _spec(
        config, state_dir, name="janitor", kind="janitor", module=("daemon.janitor",),
        hang_s=max(d.service_hang_s, 2 * config.janitor.every_s), grace_s=d.stop_grace_s, finishes=False,
    )  # fmt: skip
    advisor = _spec(
        config, state_dir, name="advisor", kind="advisor", module=("daemon.advisor",),
        hang_s=max(d.service_hang_s, 2 * config.advisor.poll_s), grace_s=d.stop_grace_s, finishes=False,
    )  # fmt: skip
    notifier = _spec(
        config, state_dir, name="notifier", kind="notifier", module=("daemon.notifier",), hang_s=d.service_hang_s,
        grace_s=d.stop_grace_s, finishes=False,
    )  # fmt: skip
    return (trader, *workers, janitor, advisor, *([notifier] if config.notify.enabled else []))


def policy_of(config: Config) -> Policy:
    d = config.daemon
    return Policy(
        backoff_first_s=d.backoff_first_s, backoff_max_s=d.backoff_max_s, backoff_reset_s=d.backoff_reset_s,
        max_restarts=d.max_restarts, restart_window_s=d.restart_window_s, spawn_pace_s=d.spawn_pace_s,
        caps=(("worker", d.max_workers), ("paper_trader", 1), ("janitor", 1), ("advisor", 1), ("notifier", 1)),
    )  # fmt: skip


def fleet_of(config: Config, specs: Sequence[ChildSpec]) -> Fleet:
    return Fleet(policy=policy_of(config), children=tuple(Child(spec=s) for s in specs))


def memory_of(fleet: Fleet) -> dict[str, Any]:
    """What a successor must know if this supervisor crashes. Times are of the machine's monotonic clock."""
    return {
        "paused": fleet.paused,
        "children": {
            c.spec.name: {
                "reads": c.spec.reads, "wanted": c.wanted, "failures": c.failures, "restarts_s": c.restarts_s,
                "fatal": c.reason if c.state is State.FATAL else "", "last_exit": c.last_exit,
            }
            for c in fleet.children
            if not c.retiring
        },
    }  # fmt: skip


def recalled(fleet: Fleet, memory: Mapping[str, Any]) -> Fleet:
    """The fleet with its predecessor's history: given up stays given up, unless its configuration is another now."""
    for name, known in memory["children"].items():
        if not fleet.has(name) or fleet.child(name).spec.reads != known["reads"]:
            continue
        c = replace(
            fleet.child(name), wanted=known["wanted"], failures=known["failures"], last_exit=known["last_exit"],
            restarts_s=tuple(known["restarts_s"]),
        )  # fmt: skip
        if known["fatal"]:
            c = replace(c, state=State.FATAL, reason=known["fatal"])
        fleet = fleet.put(c)
    return replace(fleet, paused=memory["paused"])


def _spec(
    config: Config, state_dir: Path, *, name: str, kind: Kind, module: tuple[str, ...], hang_s: float, grace_s: float,
    finishes: bool,
) -> ChildSpec:  # fmt: skip
    common = ("--config", str(state_dir / "config.json"), "--state-dir", str(state_dir), "--name", name)
    return ChildSpec(
        name=name, kind=kind, command=python_module(*module, *common), hang_s=hang_s, grace_s=grace_s, finishes=finishes,
        limits=_limits(config, kind), reads=_hash_of_what_it_reads(config, kind),
    )  # fmt: skip


def _limits(config: Config, kind: Kind) -> Limits:
    d = config.daemon
    if kind == "worker":
        return Limits(
            rss_bytes=d.worker_rss_bytes, nofile=d.max_open_files, nice=d.worker_nice,
            oom_score_adj=d.worker_oom_score_adj, cpus=_cpus(d.worker_cpus),
        )  # fmt: skip
    return Limits(rss_bytes=d.service_rss_bytes, nofile=d.max_open_files)


def _cpus(text: str) -> tuple[int, ...]:
    """Processors by number: "2-4,7" is (2, 3, 4, 7), an empty text all of them. Raises ConfigurationError."""
    found: set[int] = set()
    try:
        for part in text.split(",") if text else ():
            first, _, last = part.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    except ValueError as error:
        raise ConfigurationError(f"daemon.worker_cpus is {text!r}", hint='write numbers and ranges: "2-5,7"') from error
    if text and (not found or not found <= (here := os.sched_getaffinity(0))):
        raise ConfigurationError(f"daemon.worker_cpus is {text!r}", hint=f"this process may use {sorted(here)}")
    return tuple(sorted(found))


def _hash_of_what_it_reads(config: Config, kind: Kind) -> str:
    every = {f"{section}.{key}": value for section, keys in asdict(config).items() for key, value in keys.items()}
    names = (*READS[kind], *(("daemon.torch_threads",) if kind == "worker" else ()))
    read = {k: v for k, v in every.items() if k not in NOT_READ and (k in names or k.partition(".")[0] in names)}
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()[:16]
