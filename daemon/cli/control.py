"""`cappuccinoctl stop|start|restart|retry|pause|resume`: ask the running daemon."""

import json

from daemon import control
from daemon.cli import parser
from daemon.cli.common import configuration
from features.errors import ConfigurationError


def main(verb: str, argv: list[str]) -> int:
    options = parser(verb, __doc__)
    if verb not in ("pause", "resume"):
        options.add_argument("child", nargs="?", default="")
    arguments = options.parse_args(argv)
    state_dir = arguments.state_dir or configuration(arguments)[1]
    child = getattr(arguments, "child", "")
    if verb in ("start", "restart", "retry") and not child:
        raise ConfigurationError(f"{verb} needs the name of a child", hint="see cappuccinoctl status")
    request = "stop-child" if verb == "stop" and child else verb
    reply = control.ask(state_dir, request, **({"child": child} if child else {}))
    print(json.dumps(reply) if arguments.json else reply["done"])
    return 0
