"""`features`: what can be computed, what a policy sees, and what differs between two of them."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.child.market import feature_spec
from daemon.cli import parser
from daemon.cli.common import configuration_in_force
from features.artifact import MANIFEST, PolicyArtifact
from features.errors import ConfigurationError
from features.indicators import REGISTRY
from features.scaling import Scaler
from features.spec import PRESETS, FeatureSpec, preset

CONFIGURED = "config"
SUBJECTS = {"list": 0, "show": 1, "diff": 2}
_FORMS = f"an artifact (directory or start of its id), a preset ({', '.join(PRESETS)}), or '{CONFIGURED}'"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is shown of a spec; an artifact also has a scaler."""

    name: str
    spec: FeatureSpec
    scaler: Scaler | None

    def to_dict(self) -> dict[str, Any]:
        scaler = None if self.scaler is None else self.scaler.to_dict()
        record = self.spec.to_dict() | {"lookback_bars": self.spec.lookback_bars}
        return {"name": self.name, "fingerprint": self.spec.fingerprint, "spec": record, "scaler": scaler}


def main(verb: str, argv: list[str]) -> int:
    options = parser(verb, "list the registry, show what a policy sees, or say what differs between two (exit 1)")
    options.add_argument("action", choices=SUBJECTS)
    options.add_argument("subject", nargs="*", help=f"{_FORMS}; show takes one ('{CONFIGURED}' if none), diff two")
    arguments = options.parse_intermixed_args(argv)
    subjects = arguments.subject or [CONFIGURED] * (arguments.action == "show")
    if len(subjects) != SUBJECTS[arguments.action]:
        options.error(f"{arguments.action} takes {SUBJECTS[arguments.action]} subjects, got {len(subjects)}")
    if arguments.action == "list":
        return _list(as_json=arguments.json)
    views = [_view(subject, arguments) for subject in subjects]
    return (_show if arguments.action == "show" else _diff)(*views, as_json=arguments.json)


def registry_table() -> list[dict[str, Any]]:
    """One record per registered feature, in order of registration."""
    return [
        {
            "name": kind.name, "columns": list(kind.columns), "parameters": dict(kind.defaults), "scope": kind.scope,
            "lookback_bars": kind.lookback(kind.defaults), "doc": kind.doc,
        }
        for kind in REGISTRY.values()
    ]  # fmt: skip


def _list(*, as_json: bool) -> int:
    table = registry_table()
    if as_json:
        print(json.dumps({"features": table}))
        return 0
    for row in table:
        parameters = ", ".join(f"{k}={v}" for k, v in row["parameters"].items())
        print(f"{row['name']}({parameters})  {row['scope']}, reads {row['lookback_bars']} bars back")
        print(f"    {row['doc']}")
        if row["columns"] != [row["name"]]:
            print(f"    columns: {', '.join(row['columns'])}")
    return 0


def _view(subject: str, arguments: argparse.Namespace) -> View:
    config, state_dir = configuration_in_force(arguments)
    if subject == CONFIGURED:
        return View(name=CONFIGURED, spec=feature_spec(config), scaler=None)
    if subject in PRESETS:
        market = config.market
        spec = preset(subject, tickers=market.tickers, timeframe_s=market.timeframe_s)
        return View(name=subject, spec=spec, scaler=None)
    artifact = PolicyArtifact.load(_directory(subject, state_dir / "artifacts"))
    return View(name=artifact.artifact_id[:12], spec=artifact.spec, scaler=artifact.scaler)


def _directory(subject: str, artifacts: Path) -> Path:
    if (Path(subject) / MANIFEST).is_file():
        return Path(subject)
    found = sorted(artifacts.glob(f"{subject}*")) if subject.isalnum() else []
    if len(found) != 1:
        raise ConfigurationError(
            f"{subject!r} names {len(found) or 'no'} artifacts in {artifacts}",
            hint=f"give {_FORMS}",
        )
    return found[0]


def _show(view: View, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(view.to_dict()))
        return 0
    spec = view.spec
    print(f"{view.name}: {len(spec.columns)} columns, {', '.join(spec.tickers)} every {spec.timeframe_s} s")
    print(f"fingerprint {spec.fingerprint}")
    print(
        f"scaling {spec.scaling}, {spec.stack_bars} bars stacked, {spec.lookback_bars} bars of lookback, "
        f"TA-Lib {spec.talib_version}, semantics {spec.semantics}"
    )
    for definition in spec.features:
        kind = definition.kind
        print(f"  {', '.join(definition.columns):<36} {kind.scope:<7}{definition.lookback_bars:>4} bars  {kind.doc}")
    if view.scaler is not None:
        print("scaled as (x - centre) / scale")
        for column, centre, scale in view.scaler.columns(spec):
            print(f"  {column:<36}{centre:>14.6g}{scale:>14.6g}")
    return 0


def _diff(first: View, second: View, *, as_json: bool) -> int:
    lines = first.spec.differences(second.spec)
    if not lines and first.scaler is not None and second.scaler is not None:
        lines = first.scaler.differences(second.scaler, first.spec)
    if as_json:
        print(json.dumps({"first": first.name, "second": second.name, "differences": lines}))
    elif lines:
        print(f"{first.name} (first) against {second.name} (second):")
        print("\n".join(f"  {line}" for line in lines))
    else:
        print(f"{first.name} and {second.name} see the same: {first.spec.fingerprint}")
    return 1 if lines else 0
