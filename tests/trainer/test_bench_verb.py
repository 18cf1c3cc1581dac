"""What `bench` says is complete and is about the configuration it was given."""

import json

from daemon.child.clock import SystemClock
from daemon.child.config import parse
from trainer.bench import ACCOUNTS, Case, measure


def test_every_number_is_there_and_positive_and_json_carries_it() -> None:
    config = parse({"market": {"source": "simulated", "tickers": ["BTC", "ETH", "LTC"]}, "study": {"accounts": 32}})
    cases = (
        Case(policy="mlp", width=64, rollout_bars=16),
        Case(policy="per_asset", width=32, rollout_bars=32),
    )
    said: list[str] = []
    measured = measure(config, SystemClock(), say=said.append, cases=cases, bars=1500, case_s=0.0)
    record = json.loads(json.dumps(measured.to_dict()))
    assert set(record["env_steps_per_s"]) == {str(n) for n in ACCOUNTS} and record["tickers"] == 3
    assert [(t["policy"], t["width"]) for t in record["trained"]] == [("per_asset", 32), ("mlp", 64)]  # the usual first
    numbers = [
        *record["env_steps_per_s"].values(),
        *(v for t in record["trained"] for v in t.values() if v != t["policy"]),
    ]
    numbers += [record[n] for n in ("inference_us", "resident_bytes", "trials_per_hour", "torch_threads", "cores")]
    assert all(n > 0 for n in numbers)
    assert len(said) == 2 + len(ACCOUNTS) + len(cases)


def test_twice_the_work_per_trial_is_half_the_trials() -> None:
    cases = (Case(policy="per_asset", width=32, rollout_bars=8),)

    def steps_per_hour(steps: int) -> float:
        config = parse({"study": {"accounts": 8, "train_steps": steps}})
        measured = measure(config, SystemClock(), say=lambda _: None, cases=cases, bars=1000, case_s=0.0)
        return measured.trials_per_hour * steps / measured.trained[0].samples_per_s

    assert abs(steps_per_hour(1000) / steps_per_hour(2000) - 1) < 1e-9
