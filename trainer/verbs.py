"""What a person asks of the search: its trials, its verdicts, and what the trader shall hold."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from daemon.child.advice import on_trial
from daemon.child.clock import Clock, SystemClock
from daemon.child.config import Config
from daemon.child.logs import configure_logging, get_logger
from daemon.child.market import feature_spec
from daemon.child.progress import Progress
from features.artifact import PolicyArtifact
from features.errors import CappuccinoError, ConfigurationError
from features.files import read_json
from trainer.champion import Decision, Pointer
from trainer.judgement import EVERY_GATE, verdicts_on_record
from trainer.rungs import rung


class NotPromoted(CappuccinoError):
    """What has not passed every gate is not promoted; there is no override."""


def validate(config: Config, arguments: argparse.Namespace) -> int:
    """Judge the study's candidates now and print the verdict; the trader goes on holding what it holds."""
    from trainer.dataset import load_dataset
    from trainer.promote import Judge
    from trainer.study import require_same_study
    from trainer.training import Trainer
    from trainer.worker import identity

    clock, log = SystemClock(), _logged(arguments, "judge")
    require_own(arguments.state_dir, config.study.name)
    dataset = load_dataset(config, arguments.state_dir, clock)
    # what is judged here is kept as the study's evidence, and its workers go on from it
    require_same_study(arguments.state_dir, config.study.name, identity(config, dataset))
    trainer = Trainer(
        config=config, state_dir=arguments.state_dir, dataset=dataset, clock=clock,
        progress=Progress.from_environment(), log=log, should_stop=lambda: False,
    )  # fmt: skip
    judge = Judge(
        config=config,
        state_dir=arguments.state_dir,
        dataset=dataset,
        clock=clock,
        beat=trainer.beat,
        train=trainer.again,
    )
    judgement = judge.judge()
    assert judgement is not None
    print(json.dumps(judgement.to_dict()) if arguments.json else judgement.text())
    return 0


def trials(config: Config, arguments: argparse.Namespace) -> int:
    """List the study's trials, best first; --all with those that failed or were given up."""
    study = arguments.study or config.study.name
    folder = arguments.state_dir / "trials" / study
    if arguments.study and not folder.is_dir():
        known = ", ".join(sorted(p.name for p in folder.parent.glob("*/"))) or "none"
        raise ConfigurationError(f"there is no study {study!r} in {arguments.state_dir}", hint=f"known: {known}")
    records = [read_json(p) for p in folder.glob("*/trial.json")]
    if not arguments.all:
        records = [r for r in records if r.get("score") is not None]
    unscored = float("-inf")
    records.sort(key=lambda r: (-(unscored if r.get("score") is None else r["score"]), r["number"]))
    shown = records[: arguments.top]
    if arguments.json:
        print(json.dumps({"study": study, "trials": shown}))
    else:
        print("\n".join(_line(study, r) for r in shown) or "no completed trial")
    return 0


def evidence(config: Config, arguments: argparse.Namespace) -> int:
    """Print as JSON what the study's returns say about its search: effective trials, DSR, PBO, budget, equity."""
    import numpy as np

    from trainer.promote import completed_trials
    from trainer.trust import gather

    found = gather(
        arguments.state_dir, config.study.name, completed_trials(arguments.state_dir, config.study.name),
        timeframe_s=config.market.timeframe_s, rng=np.random.default_rng(config.run.seed),
    )  # fmt: skip
    print(json.dumps(found, allow_nan=False))
    return 0


def show(config: Config, arguments: argparse.Namespace) -> int:  # noqa: ARG001  every verb has the same arguments
    """Everything on record about one trial."""
    record = find_trial(arguments.state_dir, arguments.study, arguments.trial)
    judged = [
        v for v in verdicts_on_record(arguments.state_dir)
        if v["study"] == record["study"] and record["number"] in v["trials"]
    ]  # fmt: skip
    replicates = [read_json(p) for p in sorted((_folder(arguments.state_dir, record) / "replicates").glob("*.json"))]
    reached = rung(record, judged=bool(judged))
    if arguments.json:
        print(json.dumps({**record, "rung": reached, "replicates": replicates, "verdicts": judged}))
        return 0
    lines = [_line(record["study"], record), f"  rung {reached}", ""]
    lines += [f"  {name:<30}{value}" for name, value in sorted(record.get("parameters", {}).items())]
    lines += [
        f"\n  {name:<30}{_short(record[name])}"
        for name in ("artifact", "worker", "seconds", "flags")
        if record.get(name)
    ]
    for found in ("validation", "screening", "cross_validation"):
        lines += [f"\n  {found}"] * bool(record.get(found))
        lines += [f"  {name:<30}{_short(value)}" for name, value in record.get(found, {}).items()]
    lines.append(f"\n  {len(replicates)} trainings on fresh seeds")
    for verdict in judged:
        failed = ", ".join(dict.fromkeys(g["gate"] for g in verdict["gates"] if not g["passed"])) or "none"
        lines.append(f"  {verdict['report']}: {verdict['candidate']}, failed gates: {failed}")
    print("\n".join(lines))
    return 0


def _short(value: object) -> str:
    """For a person; --json has every digit."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def export(config: Config, arguments: argparse.Namespace) -> int:  # noqa: ARG001
    """Print the artifact directory of a trial, named by study and number."""
    record = find_trial(arguments.state_dir, arguments.study, arguments.trial)
    artifact = record.get("artifact")
    if artifact is None:
        raise ConfigurationError(f"trial {arguments.trial} of study {record['study']!r} left no artifact")
    path = arguments.state_dir / "artifacts" / artifact
    PolicyArtifact.load(path)  # whole, or an error that says what is wrong with it
    named = {"study": record["study"], "number": record["number"], "artifact": artifact, "path": str(path)}
    print(json.dumps(named) if arguments.json else path)
    return 0


def promote(config: Config, arguments: argparse.Namespace) -> int:
    """Let the trader hold a candidate that has passed every gate."""
    found = _judged_candidate(arguments)
    if not found["passed"]:
        failed = [g for g in found["gates"] if not g["passed"]]
        missing = sorted(EVERY_GATE - {g["gate"] for g in found["gates"]})
        why = [f"{g['gate']} {g['what']}: {g['value']}, required {g['threshold']}" for g in failed]
        why += [f"{gate} was not reached" for gate in missing]
        raise NotPromoted(
            f"{found['candidate']} of study {found['study']!r} has not passed every gate:\n  " + "\n  ".join(why),
            hint=f"its numbers are in reports/{found['report']}",
        )
    _fits(config, arguments.state_dir, found["artifact"])
    reason = (
        f"{found['candidate']} of study {found['study']!r} passed every gate ({found['report']}); promoted by hand."
    )
    return _decided(arguments, Decision(
        action="promoted", champion=found["artifact"], holds=found["artifact"], study=found["study"],
        trial=found["trials"][0], reason=reason, gates=found["gates"],
    ))  # fmt: skip


def demote(config: Config, arguments: argparse.Namespace) -> int:
    """Take the champion down: the trader holds what it holds without one."""
    from trainer.dataset import load_dataset
    from trainer.promote import fallback

    pointer = Pointer(arguments.state_dir).read()
    if pointer is None or pointer["champion"] is None:
        raise ConfigurationError("there is no champion to take down", hint="see cappuccinoctl status")
    dataset = load_dataset(config, arguments.state_dir, SystemClock())
    holds = fallback(config, arguments.state_dir, dataset)
    reason = f"Champion {pointer['champion'][:12]} was taken down by hand. The trader holds {config.promotion.without_champion}."
    return _decided(arguments, Decision(
        action="demoted", champion=None, holds=holds, study=pointer["study"], trial=None, reason=reason, gates=(),
    ))  # fmt: skip


def rollback(config: Config, arguments: argparse.Namespace) -> int:
    """Back to the champion before."""
    pointer = Pointer(arguments.state_dir)
    stack, now = pointer.stack(), pointer.read()
    earlier = stack[:-1] if now is not None and now["champion"] is not None else stack
    if not earlier:
        raise ConfigurationError("there is no earlier champion", hint="`demote` lets the trader hold a baseline")
    back = earlier[-1]
    _fits(config, arguments.state_dir, back["champion"])
    return _decided(arguments, Decision(
        action="rolled back", champion=back["champion"], holds=back["champion"], study=back["study"], trial=back["trial"],
        reason=f"Back to {back['champion'][:12]}, champion since {back['decided_utc']}, by hand.", gates=(),
    ))  # fmt: skip


def backtest(config: Config, arguments: argparse.Namespace) -> int:
    """Run a trial's saved policies on their validation blocks again, beside the baselines; never on the hold-out."""
    from trainer.baselines import run_baselines
    from trainer.dataset import arena, load_dataset
    from trainer.evaluate import pooled, run_policy
    from trainer.score import score, table

    record = find_trial(arguments.state_dir, arguments.study, arguments.trial)
    if not record.get("fold_artifacts") or record["state"] != "COMPLETE":
        raise ConfigurationError(f"trial {arguments.trial} of study {record['study']!r} left no policies to run")
    dataset = load_dataset(config, arguments.state_dir, SystemClock())
    fee_bps = config.costs.fee_bps if arguments.fee_bps is None else arguments.fee_bps
    where = arena(config, arguments.state_dir).at_fee(fee_bps)
    name, runs, others = f"trial {arguments.trial}", [], []
    for fold, artifact_id in zip(dataset.folds, record["fold_artifacts"], strict=True):
        policy = PolicyArtifact.load(arguments.state_dir / "artifacts" / artifact_id)
        policy.require_spec(dataset.spec)
        if policy.training["data_sha256"] != dataset.data_sha256:
            raise ConfigurationError(
                f"study {record['study']!r} stands on other bars than the configuration names now",
                hint="give the configuration the study was run with",
            )
        runs.append(run_policy(name, policy, dataset.bars, dataset.rows, fold.validate, where))
        others.append(run_baselines(dataset.bars, fold.validate, where))
    scores = [score(pooled(n, r), timeframe_s=dataset.spec.timeframe_s)
              for n, r in ((name, runs), *((b, [o[b] for o in others]) for b in others[0]))]  # fmt: skip
    if arguments.json:
        print(json.dumps({"study": record["study"], "number": record["number"], "fee_bps": fee_bps,
                          "scores": [s.to_dict() for s in scores]}))  # fmt: skip
    else:
        print(table(scores, title=f"{name} of study {record['study']!r} in validation at {fee_bps:g} bp"))
    return 0


def focus(config: Config, arguments: argparse.Namespace) -> int:
    """Print the overlay of a study around the best trials of this one, or of one trial over and over."""
    from daemon.child.search import search_space
    from trainer.promote import completed_trials
    from trainer.routes import around_the_best, overlay, the_same_again

    if arguments.trial is None:
        parent = arguments.study or config.study.name
        proposed = on_trial(arguments.state_dir, parent)
        found = completed_trials(arguments.state_dir, parent)
        trials, name = [t for t in found if (t.get("pair"), t.get("half")) not in proposed], f"{parent}-focused"
    else:
        trials = [find_trial(arguments.state_dir, arguments.study, arguments.trial)]
        parent, name = trials[0]["study"], f"{trials[0]['study']}-{trials[0]['number']}-again"
    require_own(arguments.state_dir, parent)
    policy = trials[0]["parameters"]["policy"] if trials else config.study.policy
    space = search_space(policy, config.features.stack_bars)
    again = arguments.trial is not None
    ranges = the_same_again(trials[0]["parameters"], space) if again else around_the_best(trials, space)
    if arguments.json:
        print(json.dumps({"name": name, "parent": parent, "policy": policy, "ranges": ranges}))
    else:
        print(overlay(name=name, parent=parent, policy=policy, ranges=ranges, replicate=again))
    return 0


def import_study(config: Config, arguments: argparse.Namespace) -> int:  # noqa: ARG001
    """Read another system's Optuna study into a record that `trials` and `advise` can read."""
    from trainer.import_study import read_study, write_study

    imported = read_study(arguments.database, arguments.study)
    name = arguments.name or f"imported-{imported.name}"
    write_study(arguments.state_dir, name, imported, at_utc=SystemClock().now_utc().isoformat())
    print(json.dumps({"study": name, **imported.summary()}) if arguments.json else imported.text(name))
    return 0


def bench(config: Config, arguments: argparse.Namespace) -> int:
    """How fast this machine is with this configuration: environment, training, decisions; about a minute."""
    from trainer.bench import measure
    from trainer.policy import prepare

    prepare(config.daemon.torch_threads, config.study.device)
    measured = measure(config, SystemClock(), say=lambda what: print(f"bench: {what}", file=sys.stderr, flush=True))
    print(json.dumps(measured.to_dict()) if arguments.json else measured.text())
    return 0


VERBS: Mapping[str, Callable[[Config, argparse.Namespace], int]] = {
    "judge": validate, "evidence": evidence, "trials": trials, "show": show, "export": export, "promote": promote,
    "demote": demote, "rollback": rollback, "backtest": backtest, "focus": focus, "import-study": import_study,
    "bench": bench,
}  # fmt: skip


def find_trial(state_dir: Path, study: str, number: int) -> dict[str, Any]:
    """The trial's plain record. Without a study its number must be the only one of that value; nothing is guessed."""
    found = sorted(p.parent.parent.name for p in (state_dir / "trials").glob(f"*/{number}/trial.json"))
    if study:
        found = [name for name in found if name == study]
    if not found:
        where = f"study {study!r} has" if study else "no study has a"
        raise ConfigurationError(f"{where} {'no ' if study else ''}trial {number}", hint="see cappuccinoctl trials")
    if len(found) > 1:
        raise ConfigurationError(
            f"trial {number} is in {len(found)} studies: {', '.join(found)}", hint="name one with --study"
        )
    return dict(read_json(state_dir / "trials" / found[0] / str(number) / "trial.json"))


def _judged_candidate(arguments: argparse.Namespace) -> dict[str, Any]:
    """The newest verdict on the trial of that number, or on the artifact whose id begins so."""
    named: str = arguments.candidate
    on_record = [v for v in verdicts_on_record(arguments.state_dir) if arguments.study in ("", v["study"])]
    if named.isdigit() and len(named) < 8:
        found = [v for v in on_record if v["trials"] == [int(named)] and v["candidate"] == f"trial {named}"]
    else:
        found = [v for v in on_record if v["artifact"].startswith(named)]
    studies = sorted({v["study"] for v in found})
    if not found:
        raise NotPromoted(
            f"no verdict on {named} is on record", hint="cappuccinoctl validate judges the best candidates"
        )
    if len(studies) > 1:
        raise ConfigurationError(f"{named} was judged in {len(studies)} studies: {', '.join(studies)}", hint="--study")
    if len({v["artifact"] for v in found}) > 1 and not named.isdigit():
        raise ConfigurationError(f"{named} begins several artifacts", hint="write more of it")
    return found[0]


def _fits(config: Config, state_dir: Path, artifact: str) -> None:
    """ContractMismatch or DataError when the trader could not hold it."""
    PolicyArtifact.load(state_dir / "artifacts" / artifact).require_spec(feature_spec(config))


def _decided(arguments: argparse.Namespace, decision: Decision, clock: Clock | None = None) -> int:
    Pointer(arguments.state_dir).decide(decision, at_utc=(clock or SystemClock()).now_utc().isoformat())
    log = _logged(arguments, "judge")
    log.info("champion.decided", action=decision.action, champion=decision.champion, holds=decision.holds)
    record = {
        "action": decision.action,
        "champion": decision.champion,
        "holds": decision.holds,
        "reason": decision.reason,
    }
    print(json.dumps(record) if arguments.json else decision.reason)
    return 0


def _logged(arguments: argparse.Namespace, child: str) -> FilteringBoundLogger:
    configure_logging(component="trainer", child=child, path=arguments.state_dir / "logs" / f"{child}.jsonl")
    return get_logger()


def require_own(state_dir: Path, study: str) -> None:
    """ConfigurationError when the study is another system's."""
    if (state_dir / "trials" / study / "imported.json").exists():
        raise ConfigurationError(
            f"study {study!r} was imported: it can be read, not run or judged", hint="see `advise`"
        )


def _folder(state_dir: Path, record: Mapping[str, Any]) -> Path:
    return state_dir / "trials" / str(record["study"]) / str(record["number"])


def _line(study: str, record: Mapping[str, Any]) -> str:
    score = "—" if record.get("score") is None else f"{record['score']:+.2f}"
    return f"{study} #{record['number']:<5}{record['state']:<10}score {score:<8}{record.get('failure') or ''}".rstrip()
