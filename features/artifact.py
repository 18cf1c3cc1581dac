"""A policy as it is stored: manifest and weights in a directory named by their hash. No pickle anywhere.

An ensemble is an artifact without weights of its own whose members are artifacts beside it, with one fingerprint: what it
wants is the average of what they want. The manifest names them, so its hash covers them, and the janitor keeps them.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from features.actor import Actor, PolicyKind, Weights, build_actor
from features.allocation import Limits
from features.costs import Costs
from features.errors import ContractMismatch, DataError
from features.files import sync_directory, write_atomic
from features.observation import LAYOUT_VERSION, Layout
from features.scaling import Scaler
from features.spec import FeatureSpec
from features.venue_rules import VenueRules

MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"
ArtifactKind = PolicyKind | Literal["ensemble"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyArtifact:
    """Everything that turns bars into target weights, plus `training`: where it came from (plain JSON)."""

    kind: ArtifactKind
    width: int
    spec: FeatureSpec
    scaler: Scaler
    limits: Limits
    costs: Costs
    venue_rules: VenueRules
    weights: Weights
    training: Mapping[str, Any]
    members: tuple["PolicyArtifact", ...] = ()

    @property
    def policies(self) -> tuple["PolicyArtifact", ...]:
        """Those whose targets are averaged: the members, or this one alone."""
        return self.members or (self,)

    @property
    def layout(self) -> Layout:
        return Layout.of(self.spec)

    def actor(self) -> Actor:
        """DataError for an ensemble, which acts through its members."""
        if self.kind == "ensemble":
            raise DataError("an ensemble has no actor of its own", hint="average what its policies want")
        return build_actor(self.kind, self.layout, self.width, self.weights)

    def manifest(self) -> dict[str, Any]:
        return {
            "format": 1, "kind": self.kind, "width": self.width, "layout_version": LAYOUT_VERSION,
            "spec": self.spec.to_dict(), "fingerprint": self.spec.fingerprint, "scaler": self.scaler.to_dict(),
            "limits": self.limits.to_dict(), "costs": self.costs.to_dict(), "venue_rules": self.venue_rules.to_dict(),
            "weights_sha256": hashlib.sha256(self._weight_bytes()).hexdigest(), "training": dict(self.training),
        }  # fmt: skip

    @property
    def artifact_id(self) -> str:
        """SHA-256 of the manifest, which contains the hash of the weights."""
        return hashlib.sha256(_canonical(self.manifest())).hexdigest()

    def save(self, artifacts: Path) -> Path:
        """Write `artifacts/<id>/` atomically; saving the same artifact twice is one directory."""
        final = artifacts / self.artifact_id
        if final.exists():
            os.utime(final)  # as young as if written now: nothing may name it yet, and the janitor spares the young
            return final
        draft = artifacts / f".{self.artifact_id}.{os.getpid()}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        write_atomic(draft / WEIGHTS, self._weight_bytes())
        write_atomic(draft / MANIFEST, _canonical(self.manifest()))
        try:
            draft.rename(final)
        except OSError:  # another process saved the same content first
            shutil.rmtree(draft)
        sync_directory(artifacts)
        return final

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read and check an artifact; DataError when a file is missing or altered."""
        try:
            manifest_bytes = (directory / MANIFEST).read_bytes()
            weight_bytes = (directory / WEIGHTS).read_bytes()
        except OSError as error:
            raise DataError(f"artifact {directory.name} cannot be read: {error}") from error
        if hashlib.sha256(manifest_bytes).hexdigest() != directory.name:
            raise DataError(f"artifact {directory.name}: the manifest was altered", hint="export the trial again")
        record = json.loads(manifest_bytes)
        if hashlib.sha256(weight_bytes).hexdigest() != record["weights_sha256"]:
            raise DataError(f"artifact {directory.name}: the weights were altered", hint="export the trial again")
        if record["layout_version"] != LAYOUT_VERSION:
            raise ContractMismatch(
                f"artifact {directory.name} has another observation layout",
                differences=[f"layout version: {record['layout_version']} against {LAYOUT_VERSION}"],
            )
        return cls(
            kind=cast("ArtifactKind", record["kind"]), width=record["width"], spec=FeatureSpec.from_dict(record["spec"]),
            scaler=Scaler.from_dict(record["scaler"]), limits=Limits(**record["limits"]),
            costs=Costs(**record["costs"]), venue_rules=VenueRules.from_dict(record["venue_rules"]),
            weights=load_tensors(weight_bytes), training=record["training"],
            members=tuple(cls.load(directory.parent / m) for m in record["training"].get("members", ())),
        )  # fmt: skip

    def require_spec(self, pipeline: FeatureSpec) -> None:
        """Raise ContractMismatch listing every difference unless the pipeline computes what this policy sees."""
        self.spec.require(pipeline, mine=f"artifact {self.artifact_id[:12]}", theirs="the configured pipeline")

    def _weight_bytes(self) -> bytes:
        tensors = {name: np.ascontiguousarray(self.weights[name]) for name in sorted(self.weights)}
        data: bytes = save_tensors(tensors)
        return data


def ensemble(members: Sequence[PolicyArtifact], *, training: Mapping[str, Any]) -> PolicyArtifact:
    """The average of `members`; ContractMismatch unless they see the same market, scaled alike, under the same costs."""
    first = members[0]
    differences = [
        f"{name}: member {i} differs from member 0"
        for i, member in enumerate(members)
        for name in ("spec", "scaler", "costs", "venue_rules")
        if getattr(member, name) != getattr(first, name)
    ]
    differences += [f"member {i} is an ensemble" for i, member in enumerate(members) if member.kind == "ensemble"]
    if differences:
        raise ContractMismatch("these artifacts make no ensemble", differences=differences)
    return PolicyArtifact(
        kind="ensemble", width=1, spec=first.spec, scaler=first.scaler, limits=first.limits, costs=first.costs,
        venue_rules=first.venue_rules, weights={}, members=tuple(members),
        training={**training, "members": [m.artifact_id for m in members]},
    )  # fmt: skip


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
