"""What several verbs need: the configuration and the state directory that the options name."""

import argparse
from dataclasses import replace
from pathlib import Path

from daemon.child.config import Config, load_config, resolve_state_dir
from daemon.cli import shipped_config
from features.errors import ConfigurationError


def configuration(arguments: argparse.Namespace) -> tuple[Config, Path]:
    """The checked configuration and its state directory; the latter is written back into the former."""
    first, *overlays = arguments.config or [shipped_config()]
    config = load_config(first, overlays, arguments.overrides)
    state_dir = state_directory(arguments, config)
    return replace(config, run=replace(config.run, state_dir=str(state_dir))), state_dir


def configuration_in_force(arguments: argparse.Namespace) -> tuple[Config, Path]:
    """The same, but unless the options name a configuration, the one that the daemon last ran with there."""
    config, state_dir = configuration(arguments)
    record = state_dir / "config.json"
    return load_config(record) if record.exists() and not names_one(arguments) else config, state_dir


def names_one(arguments: argparse.Namespace) -> bool:
    return bool(arguments.config or arguments.overrides)


def begin(state_dir: Path) -> None:
    """Make the state directory, for its owner alone as the units do, if it is not there."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigurationError(f"{error.filename} is no directory", hint="run.state_dir must name one") from error


def require_begun(state_dir: Path) -> None:
    """Raises ConfigurationError where there is no state directory: a mistyped one must not look like an empty one."""
    if not state_dir.is_dir():
        raise ConfigurationError(f"there is nothing at {state_dir}", hint="--state-dir names another; `run` begins one")


def state_directory(arguments: argparse.Namespace, config: Config) -> Path:
    chosen: Path | None = arguments.state_dir
    return chosen.expanduser().resolve() if chosen is not None else resolve_state_dir(config.run.state_dir)
