from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from world import random_bars

from features.actor import PolicyKind, build_actor, constant_raw, weight_shapes
from features.allocation import Limits
from features.artifact import MANIFEST, WEIGHTS, PolicyArtifact, ensemble
from features.costs import Costs
from features.decision import Decider, MarketWindow, market_blocks
from features.errors import ContractMismatch, DataError
from features.ledger import Ledger
from features.observation import Layout
from features.pipeline import FeatureStream, compute
from features.scaling import Scaler
from features.spec import preset
from features.venue_rules import VenueRules

BARS = random_bars(21)


def artifact(kind: PolicyKind = "per_asset", *, stack_bars: int = 1, seed: int = 0) -> PolicyArtifact:
    spec = preset("stationary", tickers=BARS.tickers, timeframe_s=3600, stack_bars=stack_bars)
    rng = np.random.default_rng(seed)
    shapes = weight_shapes(kind, Layout.of(spec), 16)
    weights = {n: rng.normal(0, 0.3, shape).astype(np.float32) for n, shape in shapes.items()}
    if kind == "constant":
        weights = {"raw": constant_raw(np.array([0.2, 0.3, 0.1]))}
    return PolicyArtifact(
        kind=kind, width=16, spec=spec, scaler=Scaler.fit(compute(BARS, spec), spec),
        limits=Limits(min_cash_reserve=0.02, max_weight=0.5, no_trade_band=0.02),
        costs=Costs(fee_bps=25, half_spread_bps=2, slippage_bps=3),
        venue_rules=VenueRules.uniform("here", BARS.tickers), weights=weights, training={"seed": seed},
    )  # fmt: skip


def test_saving_twice_gives_one_directory_and_loading_gives_the_same_policy(tmp_path: Path) -> None:
    one, two = artifact().save(tmp_path), artifact().save(tmp_path)
    assert one == two and [p.name for p in tmp_path.iterdir()] == [one.name]
    back = PolicyArtifact.load(one)
    assert back.artifact_id == one.name
    seen = np.random.default_rng(1).normal(size=back.layout.size).astype(np.float32)
    assert back.actor().act(seen).tobytes() == artifact().actor().act(seen).tobytes()


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
def test_an_altered_file_is_refused(tmp_path: Path, name: str) -> None:
    path = artifact().save(tmp_path)
    data = bytearray((path / name).read_bytes())
    data[-3] ^= 1
    (path / name).write_bytes(bytes(data))
    with pytest.raises(DataError, match="altered"):
        PolicyArtifact.load(path)


def test_the_hash_covers_the_meaning_of_actions() -> None:
    base = artifact()
    parts = {name: getattr(base, name) for name in PolicyArtifact.__dataclass_fields__}
    for change in (
        {"limits": replace(base.limits, no_trade_band=0.03)},
        {"costs": base.costs.with_fee_bps(10.0)},
        {"venue_rules": VenueRules.uniform("here", BARS.tickers, lot="0.1")},
        {"weights": artifact(seed=1).weights},
    ):
        assert PolicyArtifact(**parts | change).artifact_id != base.artifact_id


@pytest.mark.parametrize("tickers", [("ETH", "BTC", "LTC"), ("BTC", "ETH", "BCH"), ("BTC", "ETH")])
def test_wrong_permuted_or_fewer_tickers_refuse_to_load_with_the_difference(tickers: tuple[str, ...]) -> None:
    with pytest.raises(ContractMismatch) as caught:
        artifact().require_spec(preset("stationary", tickers=tickers, timeframe_s=3600))
    assert caught.value.exit_code == 78
    assert any(t in line for line in caught.value.differences for t in ("ETH", "LTC", "BCH"))


def test_weights_of_another_shape_are_named() -> None:
    short = dict(artifact().weights)
    short["asset_encoder.weight"] = short["asset_encoder.weight"][:, :-1]
    del short["cash_out.bias"]
    broken = PolicyArtifact(
        **{f: getattr(artifact(), f) for f in PolicyArtifact.__dataclass_fields__} | {"weights": short}
    )
    with pytest.raises(ContractMismatch) as caught:
        broken.actor()
    assert {line.split(":")[0] for line in caught.value.differences} == {"asset_encoder.weight", "cash_out.bias"}


@pytest.mark.parametrize("stack_bars", [1, 3])
def test_decisions_on_the_stream_equal_decisions_on_the_batch(stack_bars: int) -> None:
    policy = artifact(stack_bars=stack_bars)
    spec, decider, ledger = policy.spec, Decider(policy), Ledger.opened(BARS.tickers, 10_000.0)
    blocks = market_blocks(policy, compute(BARS, spec))
    start = 400
    live, window = FeatureStream(spec, BARS.slice(0, start)), MarketWindow(policy)
    compared = 0
    for k in range(start, 500):
        market = window.push(live.update(BARS.slice(k, k + 1)))
        if market is None:
            continue
        known = {"ledger": ledger, "close": BARS.close[k], "close_time_s": int(BARS.close_time_s[k])}
        again = blocks[k - spec.warmup_bars - stack_bars + 1]
        assert decider.decide(market=market, **known) == decider.decide(market=again, **known)  # type: ignore[arg-type]
        compared += 1
    assert compared == 100 - stack_bars + 1


@pytest.mark.parametrize("kind", ["per_asset", "mlp", "constant"])
@pytest.mark.parametrize("width", [1, 33])
def test_an_actor_says_of_each_of_several_observations_what_it_says_of_it_alone(kind: PolicyKind, width: int) -> None:
    """Bit for bit, beyond the eight numbers that numpy adds up in another way: the judge's fees share their bars."""
    layout, rng = Layout(n_assets=19, n_asset_features=12, n_shared_features=4), np.random.default_rng(width)
    weights = {
        n: rng.normal(0, 0.3, shape).astype(np.float32) for n, shape in weight_shapes(kind, layout, width).items()
    }
    actor = build_actor(kind, layout, width, weights)
    for several in (1, 4, 9):
        seen = rng.normal(size=(several, layout.size)).astype(np.float32)
        assert [row.tobytes() for row in actor.act(seen)] == [actor.act(row).tobytes() for row in seen]


def test_accounts_on_one_bar_decide_as_each_would_alone() -> None:
    accounts = [
        Ledger.opened(BARS.tickers, 10_000.0),
        replace(Ledger.opened(BARS.tickers, 7.0), quantity=(Decimal("0.3"), Decimal(0), Decimal("1.25"))),
        replace(
            Ledger.opened(BARS.tickers, 0.1), quantity=(Decimal(0), Decimal(5), Decimal("2e-8")), bars_since_trade=9
        ),
    ]
    policy = ensemble([artifact(seed=0), artifact(seed=1)], training={})
    known = {
        "market": market_blocks(policy, compute(BARS, policy.spec))[-1],
        "close": BARS.close[-1],
        "close_time_s": 1,
    }
    together = Decider(policy).decide_each(ledgers=accounts, **known)  # type: ignore[arg-type]
    assert together == tuple(Decider(policy).decide(ledger=a, **known) for a in accounts)  # type: ignore[arg-type]
    assert len({d.target for d in together}) == 3


def test_a_constant_policy_aims_at_its_portfolio() -> None:
    policy = artifact("constant")
    decision = Decider(policy).decide(
        market=np.zeros(policy.layout.market_size, dtype=np.float32), ledger=Ledger.opened(BARS.tickers, 100.0),
        close=BARS.close[0], close_time_s=0,
    )  # fmt: skip
    np.testing.assert_allclose(decision.target, [0.2, 0.3, 0.1], atol=1e-6)


def test_permuted_tickers_permute_the_actors_logits() -> None:
    policy = artifact()
    layout, order = policy.layout, [2, 0, 1]
    seen = np.random.default_rng(4).normal(size=layout.size).astype(np.float32)
    asset, shared, held, account = layout.split(seen)
    other = np.concatenate([asset[order].ravel(), shared, held[order], account]).astype(np.float32)
    a, b = policy.actor().act(seen), policy.actor().act(other)
    np.testing.assert_allclose(b, np.concatenate([a[:3][order], a[3:]]), atol=1e-5)


def decided(policy: PolicyArtifact) -> np.ndarray:
    block = market_blocks(policy, compute(BARS, policy.spec))[-1]
    account = Ledger.opened(BARS.tickers, 10_000.0)
    close_s = int(BARS.close_time_s[-1])
    decision = Decider(policy).decide(market=block, ledger=account, close=BARS.close[-1], close_time_s=close_s)
    return np.array(decision.target)


def test_an_ensemble_wants_the_average_of_what_its_members_want_and_says_so_again_from_disk(tmp_path: Path) -> None:
    members = [artifact(seed=s) for s in (1, 2, 3)]
    for member in members:
        member.save(tmp_path)
    together = ensemble(members, training={"study": "s"})
    wanted = decided(together)
    assert np.allclose(wanted, np.mean([decided(m) for m in members], axis=0), rtol=0, atol=1e-15)
    back = PolicyArtifact.load(together.save(tmp_path))
    assert back.artifact_id == together.artifact_id and np.array_equal(decided(back), wanted)
    assert back.training["members"] == [m.artifact_id for m in members]


def test_an_ensemble_with_an_altered_or_missing_member_is_refused(tmp_path: Path) -> None:
    members = [artifact(seed=s) for s in (1, 2)]
    paths = [m.save(tmp_path) for m in members]
    together = ensemble(members, training={}).save(tmp_path)
    (paths[1] / WEIGHTS).write_bytes(b"x" + (paths[1] / WEIGHTS).read_bytes()[1:])
    with pytest.raises(DataError, match="altered"):
        PolicyArtifact.load(together)


def test_members_that_see_different_markets_make_no_ensemble() -> None:
    with pytest.raises(ContractMismatch) as caught:
        ensemble([artifact(), artifact(stack_bars=2)], training={})
    assert "spec: member 1 differs from member 0" in caught.value.differences
