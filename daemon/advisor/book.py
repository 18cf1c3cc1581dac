"""Everything that was ever proposed for one study and what became of it, folded from the audit log. Pure.

The log is the truth; what the trainer reads (`Standing`) follows from it and from nothing else.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from daemon.advisor.experiment import MOST_PAIRS, Tally, Verdict
from daemon.advisor.proposals import ON_TRIAL, Known, Proposal, configuration
from daemon.advisor.records import Bounds, Trial
from daemon.child.advice import Pair, Source, Span, Standing

State = Literal["open", "for a person", "adopted", "retracted", "undecided"]
LOST: tuple[State, ...] = ("retracted", "undecided")  # its proposer is not heard again


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One bet: a proposal, or all configurations of one proposer. proposals: by their id, oldest first.

    by: who decided, "evidence" or a person; finished: how many trials had ended then; decided: which record of the log
    says so.
    """

    id: str
    kind: str
    proposer: str
    proposals: Mapping[str, Proposal]
    state: State
    tally: Tally = field(default_factory=Tally)
    by: str = ""
    finished: int = 0
    decided: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Flat, for a reader: the newest proposal, the score of the bet, and its path."""
        newest = list(self.proposals.values())[-1]
        t = self.tally
        return {
            "id": self.id, "kind": self.kind, "proposer": self.proposer, "state": self.state, "by": self.by,
            "pairs": t.wins + t.losses, "wins": t.wins, "losses": t.losses, "void": t.voids, "e": t.e,
            "difference": t.difference, "predicted_delta": newest.predicted_delta, "hypothesis": newest.hypothesis,
            "proposals": {name: p.to_dict() for name, p in self.proposals.items()},
            "path": [{"pair": s.pair, "trials": list(s.trials), "outcome": s.outcome, "difference": s.difference, "e": s.e}
                     for s in t.path],
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """experiments: by id, oldest first. refused: how often each proposer was refused for each reason."""

    experiments: Mapping[str, Experiment] = field(default_factory=dict)
    refused: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]], study: str) -> "Book":
        """records: the whole log, of every study."""
        experiments: dict[str, Experiment] = {}
        refused: Counter[tuple[str, str]] = Counter()
        for index, r in enumerate(records):
            if r["study"] != study:
                continue
            match r["event"]:
                case "proposed":
                    _propose(experiments, r)
                case "refused":
                    refused[r["proposer"], r["reason"]] += 1
                case "settled":
                    e, won = experiments[r["experiment"]], (r["outcome"], r["difference"])
                    experiments[e.id] = replace(e, tally=e.tally.after(r["pair"], tuple(r["trials"]), won))
                case "adopted" | "retracted" | "undecided" as state:
                    e = experiments[r["experiment"]]
                    experiments[e.id] = replace(e, state=state, by=r["by"], finished=r["finished"], decided=index)
        return cls(experiments=experiments, refused=refused)

    def to_dict(self) -> dict[str, Any]:
        return {
            "experiments": [e.to_dict() for e in self.experiments.values()],
            "refused": [{"proposer": who, "reason": why, "count": n} for (who, why), n in self.refused.items()],
        }

    @property
    def adopted(self) -> dict[str, Span]:
        """Ranges in force: a later adoption overrides an earlier one."""
        ordered = sorted((e for e in self.experiments.values() if e.state == "adopted"), key=lambda e: e.decided)
        return {name: span for e in ordered for p in e.proposals.values() for name, span in p.ranges.items()}

    def standing(self) -> Standing:
        """What the trainer is to do."""
        stops = [e.finished for e in self.experiments.values() if e.kind == "stop" and e.state == "adopted"]
        return Standing(
            sources=tuple(s for e in self.experiments.values() for s in _sources(e)), ranges=self.adopted,
            target=min(stops, default=None),
        )  # fmt: skip

    def known(self, bounds: Mapping[str, Bounds], trials: Sequence[Trial], pairs_left: int) -> Known:
        every = [p for e in self.experiments.values() for p in e.proposals.values()]
        waiting = [
            p for e in self.experiments.values() if e.state in ("open", "adopted") for p in e.proposals.values()
            if p.kind == "enqueue"
        ]  # fmt: skip
        searched = [{n: t.parameters[n] for n in bounds if n in t.parameters} for t in trials]
        return Known(
            bounds=bounds, tried={configuration(p) for p in searched} | {configuration(p.parameters) for p in waiting},
            subjects={p.subject for p in every}, adopted=self.adopted,
            open=[p.ranges for e in self.experiments.values() if e.state == "open" for p in e.proposals.values()],
            retired={e.proposer for e in self.experiments.values() if e.kind == "enqueue" and e.state in LOST},
            pairs_left=pairs_left, scored={t.number for t in trials if t.score is not None},
        )  # fmt: skip

    def unsettled(self, pairs: Sequence[Pair]) -> list[tuple[Experiment, Pair]]:
        """Pairs whose outcome is not in the log yet, in order."""
        owner = {name: e for e in self.experiments.values() for name in e.proposals}
        done = {s.pair for e in self.experiments.values() for s in e.tally.path}
        return [
            (owner[p.proposal], p) for p in pairs
            if p.number not in done and p.proposal in owner and len(p.halves) == 2
        ]  # fmt: skip


def experiment_of(proposal: Proposal, name: str) -> str:
    """Configurations are judged by who proposed them, everything else by itself."""
    return proposal.proposer if proposal.kind == "enqueue" else name


def decided(verdict: Verdict, experiment: Experiment, *, by: str, finished: int) -> dict[str, Any]:
    """The log record of a decision."""
    t = experiment.tally
    return {
        "event": verdict, "experiment": experiment.id, "by": by, "finished": finished, "wins": t.wins, "losses": t.losses,
        "void": t.voids, "e": t.e, "difference": t.difference,
    }  # fmt: skip


def _propose(experiments: dict[str, Experiment], record: Mapping[str, Any]) -> None:
    proposal, name = Proposal.from_dict(record["proposal"]), record["id"]
    key = experiment_of(proposal, name)
    if key in experiments:
        experiments[key] = replace(experiments[key], proposals={**experiments[key].proposals, name: proposal})
        return
    state: State = "open" if proposal.kind in ON_TRIAL else "for a person"
    experiments[key] = Experiment(
        id=key, kind=proposal.kind, proposer=proposal.proposer, proposals={name: proposal}, state=state
    )


def _sources(experiment: Experiment) -> list[Source]:
    """What is still to be drawn from it: configurations once each, with a control until their proposer is adopted."""
    if experiment.kind == "enqueue" and experiment.state in ("open", "adopted"):
        return [
            Source(proposal=name, pairs=1, parameters=p.parameters, paired=experiment.state == "open")
            for name, p in experiment.proposals.items()
        ]
    if experiment.state != "open":
        return []
    return [
        Source(proposal=name, pairs=MOST_PAIRS, parameters=p.parameters or None, ranges=p.ranges)
        for name, p in experiment.proposals.items()
    ]
