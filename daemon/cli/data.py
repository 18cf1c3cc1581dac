"""`data`: the stored candles of the configured market; fetched, checked, mended, shown."""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from daemon.child.clock import SystemClock
from daemon.child.config import Config
from daemon.child.logs import configure_logging
from daemon.child.market import Waiting, candle_store, open_market, store_venue_rules, venue_of
from daemon.cli import parser
from daemon.cli.common import begin, configuration_in_force
from daemon.cli.data_report import PairReport, clock_text, other_shelves, report_text, stored_text
from features.bars import epoch_s
from features.errors import ConfigurationError
from features.sources.base import CandleSource
from features.sources.copied import CopiedSource
from features.sources.errors import MarketUnavailable
from features.sources.live import LiveSource
from features.store.candles import candles_sha256, timeframe_of, timeframe_text
from features.store.check import Finding, findings, repair
from features.store.fill import Filled, Filler
from features.store.shelf import Shelf
from features.store.store import CandleStore

REREAD_BARS = 48  # of what is stored, asked again by `update`: venues correct themselves within a day or two
FOREVER = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The configured market and the part of it that the options name."""

    config: Config
    state_dir: Path
    store: CandleStore
    venue: str
    after_s: int | None
    until_s: int | None
    resample_s: int | None

    @property
    def timeframe_s(self) -> int:
        return self.config.market.timeframe_s

    def shelves(self) -> dict[str, Shelf]:
        """Ticker → its shelf, whether anything is on it or not."""
        market = self.config.market
        return {t: self.store.shelf(self.venue, self.timeframe_s, f"{t}-{market.quote}") for t in market.tickers}

    def stored(self) -> dict[str, Shelf]:
        """Those that there are; ConfigurationError when nothing is: a check of nothing finds nothing."""
        found = {ticker: shelf for ticker, shelf in self.shelves().items() if shelf.path.is_dir()}
        if not found:
            raise ConfigurationError(
                f"nothing of {self.venue} is stored in {self.state_dir}", hint="cappuccinoctl data download fetches it"
            )
        return found

    def source(self, waiting: Waiting) -> CandleSource:
        opened = open_market(self.config, waiting)
        return opened if isinstance(opened, LiveSource) else CopiedSource(opened, quote=self.config.market.quote)

    def filler(self, source: CandleSource, waiting: Waiting, on_bars: Callable[[int], None]) -> Filler:
        begin(self.state_dir)
        return Filler(
            self.store, source, venue=self.venue, timeframe_s=self.timeframe_s, clock_now_s=waiting.now_s,
            pause=waiting.pause, on_bars=on_bars,
        )  # fmt: skip

    def reports(self) -> list[PairReport]:
        """Of every pair of which something is stored."""
        span = (self.after_s or 0, FOREVER if self.until_s is None else self.until_s)
        made = [PairReport.of(shelf, *span, resample_s=self.resample_s) for shelf in self.shelves().values()]
        return [report for report in made if len(report.candles)]

    def heading(self) -> dict[str, Any]:
        return {"venue": self.venue, "timeframe": timeframe_text(self.resample_s or self.timeframe_s)}


def main(verb: str, argv: list[str]) -> int:
    options = parser(verb, __doc__)
    options.add_argument("action", choices=ACTIONS, help="; ".join(f"{n}: {f.__doc__}" for n, f in ACTIONS.items()))
    options.add_argument("--since", metavar="UTC", help="bars that open then or later (2024-01-01T00:00:00Z)")
    options.add_argument("--until", metavar="UTC", help="bars that close then or earlier")
    options.add_argument("--timeframe", metavar="1h", help="instead of market.timeframe_s")
    options.add_argument("--resample", metavar="4h", help="show, hash: of coarser candles made from the stored ones")
    arguments = options.parse_args(argv)
    if arguments.resample and arguments.action not in ("show", "hash"):
        options.error("--resample goes with show and hash: the store keeps what the venue said")
    configure_logging(component="data", child="foreground", path=None)  # on stderr: stdout is for the answer alone
    return ACTIONS[arguments.action](_subject(arguments), arguments.json)


def _subject(arguments: argparse.Namespace) -> Subject:
    config, state_dir = configuration_in_force(arguments)
    if arguments.timeframe:
        config = replace(config, market=replace(config.market, timeframe_s=timeframe_of(arguments.timeframe)))
    edges = [_edge(text, config.market.timeframe_s) for text in (arguments.since, arguments.until)]
    if None not in edges and edges[0] >= edges[1]:  # type: ignore[operator]
        raise ConfigurationError(f"no bar lies between {arguments.since} and {arguments.until}")
    return Subject(
        config=config, state_dir=state_dir, store=candle_store(state_dir), venue=venue_of(config), after_s=edges[0],
        until_s=edges[1], resample_s=timeframe_of(arguments.resample) if arguments.resample else None,
    )  # fmt: skip


def _edge(text: str | None, timeframe_s: int) -> int | None:
    return None if text is None else epoch_s(text) // timeframe_s * timeframe_s


def download(subject: Subject, as_json: bool) -> int:  # noqa: FBT001
    """everything from --since (else market.history_bars ago) to --until (else now), less what is stored"""
    waiting = Waiting(clock=SystemClock())
    source = subject.source(waiting)
    after_s = source.first_close_s() - subject.timeframe_s if subject.after_s is None else subject.after_s
    until_s = source.last_close_s() if subject.until_s is None else min(subject.until_s, source.last_close_s())
    total = sum(
        right - left for s in subject.shelves().values() for left, right in s.answered().missing(after_s, until_s)
    )
    filled = {}
    with _progress(total // subject.timeframe_s, "download") as on_bars:
        filler = subject.filler(source, waiting, on_bars)
        for ticker in subject.config.market.tickers:
            filled[ticker] = filler.fill(ticker, after_s=after_s, until_s=until_s)
    return _told(subject, filled, _rules_problem(subject, source, waiting), as_json=as_json)


def update(subject: Subject, as_json: bool) -> int:  # noqa: FBT001
    """what has closed since, and the last two days again: venues revise"""
    waiting = Waiting(clock=SystemClock())
    source = subject.source(waiting)
    newest_s, filled = source.last_close_s(), {}
    with _progress(len(subject.config.market.tickers), "update", unit="pair") as on_pair:
        filler = subject.filler(source, waiting, lambda _: None)
        for ticker, shelf in subject.shelves().items():
            spans = shelf.answered().spans
            if not spans:
                raise ConfigurationError(f"nothing of {shelf.pair} is stored", hint="cappuccinoctl data download")
            known_s, first_s = spans[-1][1], spans[0][0]
            again_s = max(spans[-1][0], known_s - REREAD_BARS * subject.timeframe_s)
            filled[ticker] = filler.fill(ticker, after_s=first_s, until_s=newest_s)
            filled[ticker] += filler.ask_again(ticker, after_s=again_s, until_s=known_s)
            on_pair(1)
    return _told(subject, filled, None, as_json=as_json)


def verify(subject: Subject, as_json: bool) -> int:  # noqa: FBT001
    """read every stored file; exit 1 with each finding and its remedy"""
    found: list[Finding] = []
    notes: list[str] = []
    for shelf in subject.stored().values():
        wrong = findings(shelf)
        found += wrong
        if not wrong:
            report = PairReport.of(shelf, 0, FOREVER, resample_s=None)
            notes += [f"{shelf.pair}: {report.missing_bars} bars the venue has not"] * bool(report.missing_bars)
            notes += [f"{shelf.pair}: {report.revisions} late revisions"] * bool(report.revisions)
    if as_json:
        print(json.dumps({**subject.heading(), "findings": [f.to_dict() for f in found], "notes": notes}))
    else:
        print("\n".join([f"{f.path}: {f.problem}\n  remedy: {f.remedy}" for f in found] + notes) or "nothing is wrong")
    return 1 if found else 0


def mend(subject: Subject, as_json: bool) -> int:  # noqa: FBT001
    """ask the venue again for damaged months and gaps; exit 1 when something stays wrong"""
    waiting = Waiting(clock=SystemClock())
    source, done = subject.source(waiting), {}
    with _progress(len(subject.config.market.tickers), "repair", unit="pair") as on_pair:
        filler = subject.filler(source, waiting, lambda _: None)
        for ticker, shelf in subject.shelves().items():
            done[shelf.pair] = repair(filler, ticker)
            on_pair(1)
    if as_json:
        print(json.dumps({**subject.heading(), "pairs": {pair: r.to_dict() for pair, r in done.items()}}))
    else:
        for pair, r in done.items():
            print(f"{pair}: {r.filled} missing candles filled, {r.missing} the venue has not")
            for month, kept in r.replaced.items():
                print(f"  {month} replaced" + (f"; the damaged file is kept as {kept}" if kept else ""))
            print("".join([f"  kept aside: {path}\n" for path in r.set_aside] + [f"  {f}\n" for f in r.failed]), end="")
    return 1 if any(r.failed for r in done.values()) else 0


def show(subject: Subject, as_json: bool) -> int:  # noqa: FBT001
    """coverage, gaps, revisions, filled share, clock offset and the venue's stored rules"""
    reports, rules = subject.reports(), subject.store.venue_rules(subject.venue, subject.config.market.quote)
    try:  # a stop asked for from the start: one attempt, no waiting for a venue that is down
        impatient = Waiting(clock=SystemClock(), should_stop=lambda: True)
        offset_s, clock = subject.source(impatient).clock_offset_s(), ""
    except MarketUnavailable as error:
        offset_s, clock = None, str(error)
    others = other_shelves(subject.store, set(subject.shelves().values()))
    if as_json:
        print(json.dumps({
            **subject.heading(), "pairs": [r.to_dict() for r in reports], "others": others,
            "clock_offset_s": offset_s, "clock_problem": clock, "rules": None if rules is None else rules.to_dict(),
        }))  # fmt: skip
    else:
        print(stored_text(subject.heading(), reports, others, rules) + clock_text(offset_s, clock))
    return 0


def hashes(subject: Subject, as_json: bool) -> int:  # noqa: FBT001
    """SHA-256 of the candles of a range, the same however they are stored"""
    subject.stored()
    reports = subject.reports()
    whole = candles_sha256({r.pair: r.candles for r in reports})
    if as_json:
        pairs = {r.pair: r.candles.sha256() for r in reports}
        print(json.dumps({**subject.heading(), "sha256": whole, "pairs": pairs}))
    else:
        print("\n".join([*(f"{r.candles.sha256()}  {r.pair}" for r in reports), f"{whole}  all"]))
    return 0


ACTIONS: dict[str, Callable[[Subject, bool], int]] = {
    "download": download, "update": update, "verify": verify, "repair": mend, "show": show, "hash": hashes,
}  # fmt: skip


def _told(subject: Subject, filled: dict[str, Filled], problem: str | None, *, as_json: bool) -> int:
    reports = {report.pair: report for report in subject.reports()}
    rows = [
        {
            **reports[shelf.pair].to_dict(), "added": filled[ticker].added,
            "revised": [r.to_dict() for r in filled[ticker].revisions],
        }
        for ticker, shelf in subject.shelves().items() if shelf.pair in reports
    ]  # fmt: skip
    whole = candles_sha256({pair: report.candles for pair, report in reports.items()})
    if as_json:
        print(json.dumps({**subject.heading(), "pairs": rows, "sha256": whole, "rules_problem": problem}))
    else:
        print(report_text(subject.heading(), rows, whole, problem))
    return 0


def _rules_problem(subject: Subject, source: CandleSource, waiting: Waiting) -> str | None:
    """None when the venue's rules are stored; else why they are not: candles may be public where rules are not."""
    try:
        store_venue_rules(subject.config, source, subject.state_dir, waiting)
    except ConfigurationError as error:
        return str(error)
    return None


@contextmanager
def _progress(total: int, what: str, *, unit: str = "bar") -> Iterator[Callable[[int], None]]:
    with tqdm(total=total, desc=what, unit=unit, dynamic_ncols=True, mininterval=0.5) as bar:
        yield bar.update
