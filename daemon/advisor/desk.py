"""The advisor's advice in action: proposals come in, pairs are settled, what is proven is adopted; all of it on record.

The hash-chained `advice/audit.jsonl` is the only memory: everything else is derived from it, and derived anew by whoever
comes next. One desk at a time holds its lock, be it the child's or that of a person's command.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from daemon.advisor.book import Book, Experiment, decided, experiment_of
from daemon.advisor.experiment import Tally, Verdict, outcome, verdict
from daemon.advisor.proposals import Known, Proposal, Refusal, refuse
from daemon.advisor.records import Bounds, Trial
from daemon.child.advice import read_pairs
from daemon.child.clock import Clock
from features.chain import HashChain
from features.errors import CappuccinoError
from features.files import Lock, read_json


class NoSuchAdvice(CappuccinoError):
    """Nothing of that name was ever proposed, or it cannot be decided any more."""


class Desk:
    """The advice on one study. pairs_most: how many pairs its share of trials allows in all."""

    def __init__(
        self, *, state_dir: Path, study: str, clock: Clock, log: FilteringBoundLogger, target: int, share: float
    ) -> None:
        self._state_dir, self._study, self._clock, self._log = state_dir, study, clock, log
        self._most = math.floor(share * target)
        self._audited = state_dir / "advice" / "audit.jsonl"
        self.audit = HashChain(self._audited)

    def book(self) -> Book:
        return Book.of(self.audit.records(), self._study)

    def known(self, book: Book, bounds: Mapping[str, Bounds], trials: Sequence[Trial]) -> Known:
        return book.known(bounds, trials, self._most - len(read_pairs(self._state_dir, self._study)))

    def propose(
        self, proposals: Sequence[Proposal], bounds: Mapping[str, Bounds], trials: Sequence[Trial]
    ) -> list[Refusal | None]:  # fmt: skip
        """Every one is written down, accepted or refused with its reason; None for an accepted one."""
        verdicts: list[Refusal | None] = []
        with self._locked():
            for proposal in proposals:
                book = self.book()
                refusal = refuse(proposal, self.known(book, bounds, trials))
                verdicts.append(refusal)
                if refusal is not None:
                    self._refused(proposal.proposer, refusal, proposal=proposal.to_dict())
                    continue
                name = f"{proposal.kind}-{1 + sum(len(e.proposals) for e in book.experiments.values())}"
                self._write({"event": "proposed", "id": name, "proposal": proposal.to_dict()})
                self._log.info(
                    "advice.proposed", id=name, kind=proposal.kind, proposer=proposal.proposer,
                    experiment=experiment_of(proposal, name),
                )  # fmt: skip
            self._publish()
        return verdicts

    def refuse(self, proposer: str, refusal: Refusal, **facts: Any) -> None:
        """Count what never became a proposal."""
        with self._locked():
            self._refused(proposer, refusal, **facts)

    def note(self, event: str, **facts: Any) -> None:
        """Anything else that the audit shall hold."""
        with self._locked():
            self._write({"event": event, **facts})

    def settle(self, records: Sequence[Mapping[str, Any]]) -> int:
        """Book every pair whose halves have both ended, and decide what that decides. records: of ended trials."""
        if not self._audited.exists():
            return 0
        pairs, ended = read_pairs(self._state_dir, self._study), _halves(records)
        finished, booked = sum(not r.get("requeued", False) for r in records), 0
        with self._locked():
            book = self.book()
            tallies = {name: e.tally for name, e in book.experiments.items()}
            for experiment, pair in book.unsettled(pairs):
                found = {h.arm: ended.get((pair.number, position)) for position, h in enumerate(pair.halves)}
                ours, theirs = found["proposal"], found["control"]
                if ours is None or theirs is None or verdict_of(tallies[experiment.id]) is not None:
                    continue
                trials, won = (int(ours["number"]), int(theirs["number"])), outcome(ours, theirs)
                tally = tallies[experiment.id] = tallies[experiment.id].after(pair.number, trials, won)
                booked += 1
                self._write({
                    "event": "settled", "experiment": experiment.id, "proposal": pair.proposal, "pair": pair.number,
                    "trials": trials, "outcome": won[0], "difference": won[1], "e": tally.e,
                })  # fmt: skip
                self._log.info(
                    "advice.settled", experiment=experiment.id, pair=pair.number, outcome=won[0], e=round(tally.e, 3)
                )
            self._decide(finished)
            self._publish()
        return booked

    def adopt(self, name: str, *, finished: int) -> Experiment:
        """A person's word. NoSuchAdvice when there is nothing of that name to adopt."""
        return self._by_hand(name, "adopted", ("open", "for a person", "undecided"), finished)

    def retract(self, name: str, *, finished: int) -> Experiment:
        """A person's word, also on what is in force already."""
        return self._by_hand(name, "retracted", ("open", "for a person", "adopted", "undecided"), finished)

    def _by_hand(self, name: str, verdict: Verdict, states: Sequence[str], finished: int) -> Experiment:
        with self._locked():
            found = self.find(name)
            if found.state not in states:
                raise NoSuchAdvice(f"{name} is {found.state}", hint=f"what is {' or '.join(states)} can be {verdict}")
            self._conclude(verdict, found, by="person", finished=finished)
            self._publish()
            return self.find(name)

    def find(self, name: str) -> Experiment:
        """The experiment of that name, or the one that a proposal of that name is part of."""
        for experiment in self.book().experiments.values():
            if name in (experiment.id, *experiment.proposals):
                return experiment
        raise NoSuchAdvice(f"study {self._study!r} has no advice called {name!r}", hint="see cappuccinoctl advice list")

    def _decide(self, finished: int) -> None:
        """From the log, not from what was just booked: a predecessor may have been killed between the two."""
        for experiment in self.book().experiments.values():
            if experiment.state == "open" and (found := verdict_of(experiment.tally)) is not None:
                self._conclude(found, experiment, by="evidence", finished=finished)

    def _conclude(self, verdict: Verdict, experiment: Experiment, *, by: str, finished: int) -> None:
        record = decided(verdict, experiment, by=by, finished=finished)
        self._write(record)
        self._log.info(
            "advice.decided", experiment=experiment.id, verdict=verdict, by=by, e=round(record["e"], 3),
            wins=record["wins"], losses=record["losses"], difference=record["difference"],
        )  # fmt: skip

    def _refused(self, proposer: str, refusal: Refusal, **facts: Any) -> None:
        self._write(
            {"event": "refused", "proposer": proposer, "reason": refusal.reason, "detail": refusal.detail, **facts}
        )
        self._log.warning("advice.refused", proposer=proposer, reason=refusal.reason, detail=refusal.detail)

    def _publish(self) -> None:
        self.book().standing().write(self._state_dir, self._study)

    def _write(self, record: Mapping[str, Any]) -> None:
        self.audit.append({**record, "study": self._study, "at_utc": self._clock.now_utc().isoformat()})

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with Lock(self._state_dir / "run" / "advice.lock", wait=True):
            yield


def finished_trials(state_dir: Path, study: str) -> int:
    """How many trials have ended for good."""
    records = (read_json(p) for p in (state_dir / "trials" / study).glob("*/trial.json"))
    return sum(r["state"] != "RUNNING" and not r.get("requeued", False) for r in records)


def verdict_of(tally: Tally) -> Verdict | None:
    return verdict(tally.wins, tally.losses, tally.voids)


def _halves(records: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], Mapping[str, Any]]:
    """(pair, half) → the record that counts: not one that was handed back, whose retry is still to come."""
    return {
        (r["pair"], r["half"]): r for r in records if "pair" in r and not r.get("requeued", False)
    }  # fmt: skip
