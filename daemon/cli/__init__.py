"""`cappuccinoctl`: one file per verb; only `main` turns errors into exit codes."""

import argparse
import difflib
import errno
import importlib
import os
import sys
from pathlib import Path

from daemon.child.exits import EXIT_USAGE
from daemon.child.usage import COMMON, Parser, directory
from features.errors import CappuccinoError

# verb → (module, one line); the module is imported only when its verb runs, so that `status` starts at once
VERBS = {
    "run": ("run", "the service in the foreground: workers, trader, janitor, advisor"),
    "demo": ("demo", "the whole job on the simulated market, ends by itself"),
    "status": ("status", "what runs, how the study stands, what the trader holds"),
    "doctor": ("doctor", "what is wrong here, and what to do about it"),
    "logs": ("logs", "log lines of the daemon or of one child"),
    "stop": ("control", "stop the daemon, or one CHILD"),
    "start": ("control", "start one CHILD"),
    "restart": ("control", "restart one CHILD"),
    "retry": ("control", "start one CHILD now, forgetting its failures"),
    "pause": ("control", "stop training, keep trading; or `pause trading`"),
    "resume": ("control", "start training again; or `resume trading`"),
    "scale": ("control", "so many WORKERS from now on"),
    "drain": ("control", "let the workers finish their trials, then stop the daemon"),
    "reload": ("control", "read the configuration again; only children that it concerns restart"),
    "events": ("events", "what happened to the children; --crash: the last words of one"),
    "train": ("program", "one worker in the foreground"),
    "validate": ("program", "judge the study's best candidates now; promotes nothing"),
    "trials": ("program", "the study's trials, best first (--all with the failed ones)"),
    "show": ("program", "all there is about one TRIAL, its verdicts included"),
    "export": ("program", "the artifact directory of a TRIAL"),
    "backtest": ("program", "a TRIAL's policies on their validation again (--fee-bps)"),
    "promote": ("program", "make a CANDIDATE champion that has passed every gate"),
    "demote": ("program", "take the champion down; the trader holds a baseline"),
    "rollback": ("program", "back to the champion before"),
    "focus": ("program", "the overlay of a study around the best trials, or of one --trial again"),
    "import-study": ("program", "read an Optuna DATABASE of another system, for `trials` and `advise`"),
    "bench": ("program", "how fast this machine trains and decides, and trials an hour; about a minute"),
    "paper": ("program", "the paper account: state, equity, latency, who trades beside it"),
    "positions": ("program", "what the paper account holds and what it paid"),
    "orders": ("program", "the newest paper orders and what became of them (--last N)"),
    "verify": ("program", "re-derive every paper decision, order and fill by the training path (--since UTC)"),
    "report": (
        "program",
        "the paper account beside 1/N, Bitcoin and challengers (--html FILE draws the curves, --drift compares with a replay)",
    ),
    "flatten": ("program", "sell everything on paper and stay out until `resume trading`"),
    "rearm": ("program", "let a halted paper account trade again, after you have looked"),
    "drill": ("program", "prove on a shadow account that the kill switch fires (drill kill-switch)"),
    "advise": ("program", "analyse the trials now"),
    "advice": ("advice", "what the advisor tries: list, show, adopt, retract NAME"),
    "data": ("data", "stored candles: download, update, verify, repair, show, hash"),
    "features": ("features", "what can be computed, what a policy sees, what differs between two"),
    "notify": ("program", "send one test message to every configured service (--test)"),
    "install-service": ("install_service", "write systemd's unit, account and configuration (--user, --uninstall)"),
    "janitor": ("program", "clean up once (--dry-run only says what it would)"),
    "backup": ("backup", "copy databases and ledgers now, tested by restoring them (--list: those there are)"),
    "restore": ("backup", "put a backup back; what is there moves aside"),
}


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    verb = arguments[0] if arguments else "--help"
    try:
        if verb in ("-h", "--help"):
            print(help_text())
            return 0
        if verb not in VERBS:
            close = difflib.get_close_matches(verb, VERBS, n=1)
            said = f"did you mean {close[0]}?" if close else "the verb comes first; cappuccinoctl --help lists them"
            print(f"cappuccinoctl: {verb!r} is no verb ({said})", file=sys.stderr)
            return EXIT_USAGE
        module = importlib.import_module(f"daemon.cli.{VERBS[verb][0]}")
        code = int(module.main(verb, arguments[1:]))
    except CappuccinoError as error:
        print(f"cappuccinoctl: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough; the interpreter must not complain when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if not (remedy := _remedy(error)):
            raise
        print(f"cappuccinoctl: {error.filename or verb}: {error.strerror} ({remedy})", file=sys.stderr)
        code = 1
    return code


def _remedy(error: OSError) -> str:
    """What a person can do about it; "" where the fault is ours."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return "ask as the user to whom it belongs, or as root"
    if error.errno == errno.EROFS:
        return "name a place that can be written to; in a unit, ReadWritePaths= opens one"
    return "free space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""


def help_text() -> str:
    width = max(len(v) for v in VERBS)
    verbs = "\n".join(f"  {v:<{width}}  {text}" for v, (_, text) in VERBS.items())
    return (
        f"usage: cappuccinoctl VERB [options]\n\n{verbs}\n\n{COMMON}\n"
        "exit codes: 0 ok, 1 error, 2 degraded, 3 fatal, 4 down, 64 usage, 78 configuration or contract mismatch"
    )


def parser(verb: str, description: str) -> argparse.ArgumentParser:
    """An argument parser with the options every verb shares."""
    made = Parser(prog=f"cappuccinoctl {verb}", description=description)
    made.add_argument("--config", type=Path, action="append", default=[], help="TOML file; repeat to overlay")
    made.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides")
    made.add_argument("--state-dir", type=directory, default=None)
    made.add_argument("--json", action="store_true")
    return made


def shipped_config() -> Path:
    """./config.toml if there is one, else the one installed with the package."""
    here = Path("config.toml")
    return here if here.exists() else Path(sys.prefix) / "share" / "cappuccino" / "config.toml"
