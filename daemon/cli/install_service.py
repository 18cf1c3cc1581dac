"""`cappuccinoctl install-service [--user]`: write unit, account and configuration for systemd; run it again after an upgrade."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from daemon.child.config import load_config
from daemon.cli import parser, shipped_config
from daemon.fleet import specs_of
from daemon.install import (
    SYSTEM,
    USER,
    Change,
    Layout,
    plan,
    require_visible,
    shipped_units,
    this_program,
    wanted_files,
)  # fmt: skip
from features.errors import CappuccinoError, ConfigurationError
from features.files import write_atomic

_DONE = {"create": "created", "replace": "replaced", "same": "unchanged", "keep": "kept (yours)"}
_WOULD = {"create": "would create", "replace": "would replace", "same": "unchanged", "keep": "would keep (yours)"}


def main(verb: str, argv: list[str]) -> int:
    options = parser(verb, __doc__)
    options.add_argument("--user", action="store_true", help="for this user's own systemd, without root")
    options.add_argument("--prefix", type=Path, default=Path("/"), metavar="ROOT", help="root of an image being made")
    options.add_argument("--dry-run", action="store_true", help="only show what would change")
    options.add_argument(
        "--uninstall", action="store_true", help="remove the files again; state and configuration stay"
    )
    arguments = options.parse_args(argv)
    layout = Layout(kind=USER if arguments.user else SYSTEM, root=arguments.prefix.resolve(), home=Path.home())
    if not arguments.user and arguments.prefix == Path("/") and os.geteuid() != 0 and not arguments.dry_run:
        raise ConfigurationError("a system service is installed by root", hint="sudo, or --user, or --dry-run")
    return _uninstall(layout, arguments) if arguments.uninstall else _install(layout, arguments)


def _install(layout: Layout, arguments: argparse.Namespace) -> int:
    _require_one_configuration(layout, arguments)
    program = this_program()
    if layout.kind is SYSTEM:
        require_visible(program, Path(sys.base_prefix))
    config = arguments.config[0] if arguments.config else shipped_config()
    given = load_config(config)  # refuses what the daemon would refuse
    if layout.root == Path("/"):  # an image may be for a machine with other processors
        specs_of(given, Path(given.run.state_dir))
    wanted = wanted_files(layout, program=program, shipped=shipped_units(), config=config.read_bytes())
    existing = {path: path.read_bytes() if path.exists() else None for path in wanted}
    changes = plan(existing, wanted, keep=layout.config)
    for change in changes:
        _show(change, arguments)
    if not arguments.dry_run:
        for change in changes:
            if change.action in ("create", "replace"):
                write_atomic(change.path, change.content)
                change.path.chmod(0o644)
        _tell_systemd(layout, changes)
    if arguments.json:
        print(json.dumps({"changes": [{"path": str(c.path), "action": c.action, "diff": c.diff} for c in changes]}))
    elif not arguments.dry_run:
        print(f"next: systemctl{_flag(layout)} enable --now cappuccino; then: cappuccinoctl doctor")
    return 0


def _require_one_configuration(layout: Layout, arguments: argparse.Namespace) -> None:
    """Refuse what the unit would not read. Raises ConfigurationError.

    It is not carried into the unit: the unit is written again after each upgrade, without it, and nobody would notice.
    """
    ignored = [f"--config {path}" for path in arguments.config[1:]]
    ignored += [f"--set {override}" for override in arguments.overrides]
    ignored += [f"--state-dir {arguments.state_dir}"] if arguments.state_dir else []
    if ignored:
        raise ConfigurationError(
            f"the service reads one file alone, {layout.config}; it would not know {', '.join(ignored)}",
            hint="write that into the file which you install (a state directory as run.state_dir), or into a drop-in",
        )


def _uninstall(layout: Layout, arguments: argparse.Namespace) -> int:
    present = [path for path in layout.owned if path.exists()]
    if not arguments.dry_run:
        if _is_running(layout) and layout.unit in present:
            _run("systemctl", *_flag(layout).split(), "disable", "--now", "cappuccino")
        for path in present:
            path.unlink()
        if _is_running(layout) and present:
            _run("systemctl", *_flag(layout).split(), "daemon-reload")
    if arguments.json:
        print(json.dumps({"removed": [str(p) for p in present]}))
        return 0
    for path in present:
        print(f"{'would remove' if arguments.dry_run else 'removed'} {path}")
    print(f"{layout.config} and the state directory are yours and stay" if present else "nothing is installed")
    return 0


def _show(change: Change, arguments: argparse.Namespace) -> None:
    if arguments.json:
        return
    print(f"{(_WOULD if arguments.dry_run else _DONE)[change.action]:<18} {change.path}")
    if change.diff:
        print(change.diff, end="")


def _tell_systemd(layout: Layout, changes: tuple[Change, ...]) -> None:
    """Make account and folder, and have the unit read; nothing to tell while an image is being made."""
    new = {c.path for c in changes if c.action in ("create", "replace")}
    if not new or not _is_running(layout):
        return
    if layout.kind is SYSTEM:
        _run("systemd-sysusers", str(layout.sysusers))
        _run("systemd-tmpfiles", "--create", str(layout.tmpfiles))
        if layout.config in new:  # it may come to hold what is nobody else's business
            shutil.chown(layout.config, group="cappuccino")
            layout.config.chmod(0o640)
    _run("systemctl", *_flag(layout).split(), "daemon-reload")


def _is_running(layout: Layout) -> bool:
    """Whether the systemd that these files are for is the one that runs here."""
    return layout.root == Path("/") and Path("/run/systemd/system").is_dir()


def _flag(layout: Layout) -> str:
    return " --user" if layout.kind is USER else ""


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CappuccinoError(f"{' '.join(command)}: {done.stderr.strip() or f'exit {done.returncode}'}")
