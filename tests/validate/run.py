"""`make validate-gates`: whole studies on markets where the right verdict is known, and how often the gates gave it.

Every finished study is a file: a run that was stopped goes on, and `--table` prints what there is so far.
"""

import argparse
import json
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from cheap import CheapStudy
from markets import TICKERS, market, oracle_logits

from daemon.child.clock import SystemClock
from daemon.child.config import Config, parse
from daemon.child.market import feature_spec
from features.bars import Bars, utc_text
from features.files import read_json, write_atomic
from trainer.dataset import Dataset

N_TRIALS = 150
# The hold-out has to reach the lower quartile of the folds. One as long as five of them is less a matter of luck than any of
# them (a true policy fails in one history of eight), one as long as two and a half would fail in one of five.
N_FOLDS = 12
STUDIES = {"null": 20, "shuffled": 20, "planted": 10}
EXPECTED = {"null": "at most 1", "shuffled": "at most 1", "planted": "at least 8"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state-dir", type=Path, default=Path("validate-state"))
    parser.add_argument("--worlds", default=",".join(STUDIES))
    parser.add_argument("--studies", type=int, default=None, help="of each world; as many as the table needs")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="print what is finished and run nothing")
    arguments = parser.parse_args(argv)
    worlds = arguments.worlds.split(",")
    if not arguments.table:
        wanted = [
            (w, seed) for seed in range(arguments.studies or max(STUDIES.values())) for w in worlds
            if seed < STUDIES[w] and not _verdict(arguments.state_dir, w, seed).exists()
        ]  # fmt: skip
        with ProcessPoolExecutor(arguments.workers) as pool:
            running = [pool.submit(one, arguments.state_dir, w, seed) for w, seed in wanted]
            for n, done in enumerate(as_completed(running), start=1):
                print(f"{n}/{len(wanted)}  {done.result()}", file=sys.stderr, flush=True)
    print(table(arguments.state_dir, worlds))
    return 0


def one(root: Path, world: str, seed: int) -> str:
    """Run one study; what it came to, in a line."""
    began_s = SystemClock().monotonic_s()
    bars = market(world, seed)
    config = settings(bars, seed)
    state_dir = _verdict(root, world, seed).parent
    dataset = Dataset(everything=bars, spec=feature_spec(config), config=config, source_name=world)
    study = CheapStudy(config=config, state_dir=state_dir, dataset=dataset)
    judgement = study.run(N_TRIALS)
    record = {
        "world": world, "seed": seed, "trials": N_TRIALS, "promoted": judgement.champion is not None,
        "oracle_sharpe": study.oracle_sharpe(bars, oracle_logits(bars)) if world == "planted" else None,
        "candidates": {v.candidate: [g.to_dict() for g in v.gates] for v in judgement.verdicts},
        "seconds": SystemClock().monotonic_s() - began_s,
    }  # fmt: skip
    write_atomic(_verdict(root, world, seed), json.dumps(record).encode())
    return f"{world} {seed}: {'PROMOTED' if record['promoted'] else 'no champion'} in {record['seconds']:.0f} s"


def settings(bars: Bars, seed: int) -> Config:
    """Forty per cent of the bars train, forty-two judge, eighteen are held back.

    A market with a volatility of 87 % a year leaves nothing invested within half of its peak, so the limit on the
    drawdown, which is a matter of taste and not of evidence, is out of the way.
    """
    judge_start = utc_text(int(bars.close_time_s[4 * bars.n_bars // 10]))
    return parse({
        "run": {"seed": seed}, "market": {"source": "simulated", "tickers": list(TICKERS), "timeframe_s": bars.timeframe_s},
        "data": {"n_folds": N_FOLDS, "holdout_share": 0.3, "judge_start_utc": judge_start},
        "study": {"name": "gates"}, "promotion": {"seeds": 5, "ensemble_members": 1, "cross_validated": 0, "max_drawdown": 0.95},
    })  # fmt: skip


def table(root: Path, worlds: list[str]) -> str:
    """A row per world: how many studies promoted, and which gates refused how many of their best configurations."""
    lines = [f"{'world':<16}{'studies':>8}{'trials each':>12}{'promoted':>10}{'wanted':>18}{'oracle':>8}   refused by"]
    for world in worlds:
        found = [read_json(p) for p in sorted(root.glob(f"{world}-[0-9]*/verdict.json"))]
        oracle = [r["oracle_sharpe"] for r in found if r["oracle_sharpe"] is not None]
        refused = Counter(g for r in found for g in _refusing(r))
        lines.append(
            f"{world:<16}{len(found):>8}{N_TRIALS:>12}{sum(r['promoted'] for r in found):>10}{EXPECTED[world]:>18}"
            f"{f'{sum(oracle) / len(oracle):.2f}' if oracle else '-':>8}   "
            + " ".join(f"{gate}:{n}" for gate, n in sorted(refused.items()))
        )
    lines += [
        "", "promoted: studies whose champion passed G1 to G7. oracle: mean annual Sharpe ratio over cash, after costs.",
    ]  # fmt: skip
    return "\n".join(lines)


def _refusing(record: dict[str, Any]) -> set[str]:
    """The gates that no candidate passed."""
    failed = [{g["gate"] for g in gates if not g["passed"]} for gates in record["candidates"].values()]
    return set.intersection(*failed)


def _verdict(root: Path, world: str, seed: int) -> Path:
    return root / f"{world}-{seed}" / "verdict.json"


if __name__ == "__main__":
    sys.exit(main())
