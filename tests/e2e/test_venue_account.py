"""The whole trader on a venue's account: bars, decisions, orders and fills through the real client, death included."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import ccxt
import pytest
from alpaca_like import KEYS, AlpacaLike
from binance_like import BinanceLike
from desk import artifact, command, promote, trader
from exchange_account import ExchangeAccount, OrderFault
from rig import HOUR, START_S, TICKERS, truth_bars
from venue import server_error
from venue_clock import VenueClock

from daemon.child.clock import SystemClock
from daemon.child.config import Config, parse
from features.errors import ConfigurationError
from features.sources.alpaca_stream import AlpacaStream
from paper_trader import operator
from paper_trader.__main__ import main
from paper_trader.journal import Journal
from paper_trader.parity import verify
from paper_trader.session import Command

NOW = 1100
BARS = 12


class Died(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture(params=["alpaca", "binance"])
def venue(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(AlpacaStream, "start", lambda _: None)  # a hint about bars; this venue has no stream
    monkeypatch.setattr(ccxt.Exchange, "throttle", lambda *_: None)  # the venue is ours; its pacing is real time
    truth = truth_bars(NOW + BARS + 30)
    closes = {t: Decimal(repr(round(float(c), 2))) for t, c in zip(TICKERS, truth.close[NOW], strict=True)}
    account = ExchangeAccount(
        cash=Decimal("25000.00"), coins=dict.fromkeys(TICKERS, Decimal(0)), price=closes,
        id_for_ever=request.param == "alpaca",
    )  # fmt: skip
    kind = AlpacaLike if request.param == "alpaca" else BinanceLike
    with kind(truth=truth, now_s=START_S + NOW * HOUR + 60.0, account=account) as running:
        yield running


def settings(venue: Any, state_dir: Path, **paper: Any) -> Config:
    of_alpaca = isinstance(venue, AlpacaLike)
    keys = state_dir / "keys"
    keys.mkdir(exist_ok=True)
    for half, text in (("key_id", KEYS.key_id), ("secret_key", KEYS.secret)):
        path = keys / f"{'alpaca' if of_alpaca else 'binance'}_{half}"
        path.write_text(text)
        path.chmod(0o600)
    return parse({
        "run": {"credentials_dir": str(keys)},
        "market": {
            "source": "alpaca" if of_alpaca else "ccxt", "exchange": "binance", "quote": venue.quote,
            "tickers": list(TICKERS), "history_bars": NOW, "api_url": venue.api_url,
        },
        "paper": {"broker": "alpaca" if of_alpaca else "ccxt", "broker_url": venue.api_url, **paper},
    })  # fmt: skip


def policy() -> Any:
    """Random weights that trade on most bars."""
    return artifact(parse({"market": {"source": "simulated", "tickers": list(TICKERS)}, "simulation": {"bars": 1400}}))


def run_until(config: Config, state_dir: Path, venue: Any, end_s: float, **more: Any) -> None:
    trader(config, state_dir, clock=VenueClock(venue), should_stop=lambda: venue.now_s >= end_s, **more).run()


def test_an_account_at_a_venue_is_traded_killed_and_re_derived(venue: Any, tmp_path: Path) -> None:
    config = settings(venue, tmp_path)
    promote(tmp_path, policy())
    venue.account.faults.extend([OrderFault.TAKEN_504, OrderFault.NONE, OrderFault.LOST_504, OrderFault.PARTIAL])
    end_s = venue.now_s + BARS * HOUR
    deaths = iter((("decided", 1), ("submitted", 3), ("acknowledged", 2), ("broker settled", 2)))
    while True:
        due = next(deaths, None)
        left = [due[1] if due else 0]

        def die(name: str, due: Any = due, left: list[int] = left) -> None:
            if due and name == due[0]:
                left[0] -= 1
                if left[0] == 0:
                    raise Died

        try:
            run_until(config, tmp_path, venue, end_s, crash_point=die)
        except Died:
            continue
        break
    account = venue.account
    journal = Journal(tmp_path / "paper" / "journal.db", read_only=True)
    with closing(journal):
        assert verify(journal, tmp_path / "artifacts").mismatches == ()
        settled_s, held = journal.last_mark()
        ids = [o.client_order_id for o in account.orders]
        assert len(ids) == len(set(ids)) > 8 and set(ids) <= journal.intent_ids(since_s=0)
        later = [t for t in account.trades if t.at_s > settled_s]  # of the last decision, not yet booked
        booked = sum(bool(name) for name, _ in journal.executed())
        assert booked == len(account.trades) - len(later)
        if not later:
            assert dict(zip(held.tickers, held.quantity, strict=True)) == account.coins
    status = json.loads((tmp_path / "paper" / "status.json").read_bytes())
    assert status["state"] == "trading" and status["decisions"] >= BARS - 3
    assert status["started_with"] == 25_000.0  # what the account held, whatever account.initial_cash says
    assert status["return_since_start"] == status["equity"] / 25_000.0 - 1.0


def test_a_venue_that_is_down_is_waited_for_and_nothing_is_booked_meanwhile(venue: Any, tmp_path: Path) -> None:
    config = settings(venue, tmp_path)
    promote(tmp_path, policy())
    answers, account_path = type(venue).answer, "/v2/account" if isinstance(venue, AlpacaLike) else "/api/v3/account"
    down = [0]

    def answer(path: str, query: dict[str, str], headers: dict[str, str]) -> tuple[int, Any]:
        if path == account_path and START_S + (NOW + 3) * HOUR < venue.now_s < START_S + (NOW + 6) * HOUR:
            down[0] += 1
            return 503, {"code": -1000, "message": "down", "msg": "down"}
        return answers(venue, path, query, headers)

    venue.answer = answer
    run_until(config, tmp_path, venue, venue.now_s + BARS * HOUR)
    assert down[0] > 2
    with closing(Journal(tmp_path / "paper" / "journal.db", read_only=True)) as journal:
        assert "halted" not in journal.meta()
        marks, decided = {t for t, _, _ in journal.marks()}, {d.decision.close_time_s for d in journal.decisions()}
        assert max(marks) >= START_S + (NOW + BARS - 2) * HOUR
        missed = marks - decided - {max(marks), min(marks)}
        assert missed and max(missed) <= START_S + (NOW + 6) * HOUR  # booked late, never traded on as if new
        assert verify(journal, tmp_path / "artifacts").mismatches == ()


def test_a_trade_by_hand_halts_names_itself_and_waits_for_an_operator(venue: Any, tmp_path: Path) -> None:
    config = settings(venue, tmp_path)
    promote(tmp_path, policy())
    run_until(config, tmp_path, venue, venue.now_s + 3 * HOUR)
    venue.account.take("by hand", "LINK", Decimal("1.25"), venue.now_s, OrderFault.NONE)
    sent = venue.account.posts
    run_until(config, tmp_path, venue, venue.now_s + 3 * HOUR)
    status = json.loads((tmp_path / "paper" / "status.json").read_bytes())
    assert status["state"] == "halted" and "LINK" in status["reason"] and "no order of ours" in status["reason"]
    assert venue.account.posts == sent
    operator.ask(tmp_path, Command.REARM, SystemClock())
    run_until(config, tmp_path, venue, venue.now_s + 3 * HOUR)
    assert json.loads((tmp_path / "paper" / "status.json").read_bytes())["state"] == "trading"
    assert venue.account.posts > sent
    with closing(Journal(tmp_path / "paper" / "journal.db", read_only=True)) as journal:
        assert verify(journal, tmp_path / "artifacts").mismatches == ()


def test_a_death_between_settling_a_bar_and_deciding_on_it_costs_no_decision(venue: Any, tmp_path: Path) -> None:
    config = settings(venue, tmp_path)
    promote(tmp_path, policy())
    end_s, passages = venue.now_s + 5 * HOUR, iter(range(100))

    def die(name: str) -> None:
        if name == "bar settled" and next(passages) == 2:
            raise Died

    with pytest.raises(Died):
        run_until(config, tmp_path, venue, end_s, crash_point=die)
    run_until(config, tmp_path, venue, end_s)
    with closing(Journal(tmp_path / "paper" / "journal.db", read_only=True)) as journal:
        marks = [at_s for at_s, _, _ in journal.marks()]
        assert [d.decision.close_time_s for d in journal.decisions()][-len(marks) + 1 :] == marks[1:]
        assert verify(journal, tmp_path / "artifacts").mismatches == ()


@pytest.mark.parametrize("point", ["submitted", "acknowledged"])
@pytest.mark.parametrize("left", ["canceled", "accepted"])
def test_an_error_that_ends_the_trader_cancels_what_has_not_filled_or_leaves_it_as_configured(
    venue: Any, tmp_path: Path, left: str, point: str
) -> None:
    config = settings(venue, tmp_path, cancel_at_failure=left == "canceled")
    promote(tmp_path, policy())
    venue.account.faults.extend([OrderFault.SLOW] * 3)

    def breaks(name: str) -> None:
        if name == point:
            raise RuntimeError(name)

    with pytest.raises(RuntimeError, match=point):
        run_until(config, tmp_path, venue, venue.now_s + 3 * HOUR, crash_point=breaks)
    assert venue.account.orders and {o.status for o in venue.account.orders} == {left}
    run_until(config, tmp_path, venue, venue.now_s + 3 * HOUR)
    with closing(Journal(tmp_path / "paper" / "journal.db", read_only=True)) as journal:
        assert "halted" not in journal.meta() and verify(journal, tmp_path / "artifacts").mismatches == ()


@pytest.mark.parametrize("share", ["0.25", "0.5"])
def test_what_was_paid_out_is_no_loss_once_an_operator_has_looked(venue: Any, tmp_path: Path, share: str) -> None:
    """A quarter would be the day's loss, which sells everything; half the drawdown that halts."""
    config = settings(venue, tmp_path)
    promote(tmp_path, policy())
    run_until(config, tmp_path, venue, venue.now_s + 3 * HOUR)
    account = venue.account
    account.cash = (account.cash * (1 - Decimal(share))).quantize(Decimal("0.01"))
    for ticker, held in account.coins.items():
        account.coins[ticker] = (held * (1 - Decimal(share))).quantize(Decimal("0.00001"))
    run_until(config, tmp_path, venue, venue.now_s + 2 * HOUR)
    status = json.loads((tmp_path / "paper" / "status.json").read_bytes())
    assert status["state"] == "halted" and "the broker holds" in status["reason"]
    operator.ask(tmp_path, Command.REARM, SystemClock())
    rearmed_s = int(venue.now_s)
    run_until(config, tmp_path, venue, venue.now_s + 4 * HOUR)
    status = json.loads((tmp_path / "paper" / "status.json").read_bytes())
    assert status["state"] == "trading" and status["drawdown"] < 0.05
    with closing(Journal(tmp_path / "paper" / "journal.db", read_only=True)) as journal:
        later = [d for d in journal.decisions() if d.decision.close_time_s > rearmed_s]
        assert len(later) >= 3 and all(d.guarded == d.decision.target for d in later)
        assert journal.last_mark()[1].peak < Decimal(25_000) * (1 - Decimal(share)) * Decimal("1.05")
        assert verify(journal, tmp_path / "artifacts").mismatches == ()


def test_an_account_that_was_emptied_halts_can_be_looked_at_and_goes_on_once_there_is_money_again(
    venue: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over midnights and a restart, rearmed too early: nothing there divides by what is held."""
    config = settings(venue, tmp_path)
    promote(tmp_path, policy())
    run_until(config, tmp_path, venue, venue.now_s + 2 * HOUR)
    venue.account.cash, venue.account.coins = Decimal(0), dict.fromkeys(TICKERS, Decimal(0))
    for _ in range(3):
        operator.ask(tmp_path, Command.REARM, SystemClock())
        run_until(config, tmp_path, venue, venue.now_s + 3 * HOUR)
    status = json.loads((tmp_path / "paper" / "status.json").read_bytes())
    assert status["state"] == "halted" and "equity 0.0" in status["reason"]
    assert status["weights"] == dict.fromkeys(TICKERS, 0.0) and status["drawdown"] == 0.0
    for verb in ("paper", "positions", "report"):
        assert main(command(config, tmp_path, verb)[4:]) == 0 and "nan" not in capsys.readouterr().out
    venue.account.cash = Decimal("9000.00")
    operator.ask(tmp_path, Command.REARM, SystemClock())
    run_until(config, tmp_path, venue, venue.now_s + 27 * HOUR)
    assert json.loads((tmp_path / "paper" / "status.json").read_bytes())["state"] == "trading"
    with closing(Journal(tmp_path / "paper" / "journal.db", read_only=True)) as journal:
        assert verify(journal, tmp_path / "artifacts").mismatches == ()


def test_a_journal_of_one_broker_is_not_continued_with_another(venue: Any, tmp_path: Path) -> None:
    config = settings(venue, tmp_path)
    promote(tmp_path, policy())
    run_until(config, tmp_path, venue, venue.now_s + HOUR)
    db = sqlite3.connect(tmp_path / "paper" / "journal.db")
    with db:
        db.execute("UPDATE meta SET value = 'simulated' WHERE key = 'broker'")
    db.close()
    with pytest.raises(ConfigurationError, match="begun with the broker simulated"):
        run_until(config, tmp_path, venue, venue.now_s + HOUR)


def test_an_account_without_credentials_or_with_orders_under_way_is_not_begun(venue: Any, tmp_path: Path) -> None:
    config = settings(venue, tmp_path)
    venue.account.take("by hand", "LINK", Decimal(1), venue.now_s, OrderFault.SLOW)
    with pytest.raises(ConfigurationError, match="1 open orders"):
        run_until(config, tmp_path, venue, venue.now_s + HOUR)
    for path in (tmp_path / "keys").iterdir():
        path.unlink()
    with pytest.raises(ConfigurationError, match=r"alpaca_key_id|credentials"):
        run_until(config, tmp_path, venue, venue.now_s + HOUR)


@pytest.mark.parametrize("change", [{"broker_url": "https://api.alpaca.markets"}])
def test_a_trader_told_of_a_real_money_address_does_not_start(
    change: dict[str, Any], venue: Any, tmp_path: Path
) -> None:
    venue.inject(server_error())
    with pytest.raises(ConfigurationError, match="nowhere else") as caught:
        run_until(settings(venue, tmp_path, **change), tmp_path, venue, venue.now_s + HOUR)
    assert caught.value.exit_code == 78
    assert not [path for path, _ in venue.requests if "order" in path]


@pytest.mark.parametrize(
    ("market", "paper", "words"),
    [
        ({"source": "ccxt", "quote": "USDT"}, {"broker": "alpaca"}, "the bars are ccxt's in USDT"),
        ({"source": "alpaca", "quote": "USDC"}, {"broker": "alpaca"}, "in USDC"),
        ({"source": "ccxt", "exchange": "kraken"}, {"broker": "ccxt"}, "binance's sandbox alone"),
        ({"source": "alpaca", "quote": "USD"}, {"broker": "alpaca", "clock": "replay"}, "a replay has old prices"),
    ],
)
def test_an_account_that_does_not_fit_the_market_is_refused(market: Any, paper: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse({"market": market, "paper": paper})
