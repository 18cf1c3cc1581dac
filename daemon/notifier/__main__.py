"""`python -m daemon.notifier`: the child that tells people; `--test` sends one message and one ping now."""

import argparse
import json
import socket
import sys
from pathlib import Path

from daemon.child.clock import SystemClock
from daemon.child.config import Config, load_config
from daemon.child.logs import configure_logging, get_logger
from daemon.child.progress import Progress
from daemon.child.stopping import StopRequest
from daemon.child.usage import Parser, called, child_options
from daemon.notifier.messages import Message
from daemon.notifier.senders import PING, URLS, Ping, Senders, addresses
from daemon.notifier.shell import Notifier
from features.errors import CappuccinoError, ConfigurationError

POLL_S = 1.0


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        config = load_config(arguments.config)
        if arguments.test:
            return _test(config, as_json=arguments.json)
        configure_logging(
            component="notifier", child=arguments.name, path=arguments.state_dir / "logs" / f"{arguments.name}.jsonl"
        )
        senders, ping = _outside(config)
        clock = SystemClock()
        notifier = Notifier(
            config=config.notify, state_dir=arguments.state_dir, clock=clock, log=get_logger(), senders=senders, ping=ping,
            host=socket.gethostname(),
        )  # fmt: skip
        _serve(notifier)
    except CappuccinoError as error:
        print(f"{called('notifier')}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _serve(notifier: Notifier) -> None:
    stop, progress, turns = StopRequest(), Progress.from_environment(), 0
    progress.ready()
    while not stop.requested:
        notifier.turn()
        turns += 1
        progress.beat(done=turns, unit="turns", note="listening")
        stop.wait(POLL_S)


def _outside(config: Config) -> tuple[Senders, Ping | None]:
    directory = Path(config.run.credentials_dir)
    urls, ping = addresses(directory)
    if not urls and ping is None:
        raise ConfigurationError(
            f"there is no credential {URLS} and none called {PING}",
            hint=f"write the addresses, separated by commas, to {directory / URLS} (mode 0600), or set notify.enabled to false",
        )
    return Senders(urls), None if ping is None else Ping(ping, timeout_s=config.notify.timeout_s)


def _test(config: Config, *, as_json: bool) -> int:
    """One message to everybody and one ping; exit 1 if anything did not arrive."""
    senders, ping = _outside(config)
    refused = senders.send(
        Message(level="info", title="this is a test", body="You will be told here when something needs you."),
        host=socket.gethostname(),
    )  # fmt: skip
    failure = "" if ping is None else ping.send()
    if as_json:
        print(
            json.dumps(
                {"services": len(senders), "refused": refused, "ping": None if ping is None else failure or "ok"}
            )
        )
    else:
        print(
            f"{len(senders) - len(refused)} of {len(senders)} services told"
            + (f"; refused by {', '.join(refused)}" if refused else "")
        )
        if ping is not None:
            print(f"ping: {failure or 'ok'}")
    return 1 if refused or failure else 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog=called("notifier"), description=__doc__)
    child_options(parser, "notifier")
    parser.add_argument("--test", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
