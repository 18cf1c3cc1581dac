"""Which policy to trade: the pointer that promotion writes, checked against what this pipeline computes."""

from dataclasses import dataclass
from pathlib import Path

from features.artifact import PolicyArtifact
from features.files import read_json
from features.spec import FeatureSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What is traded: a champion, or the fallback when there is none."""

    artifact: PolicyArtifact
    artifact_id: str
    is_champion: bool


def load_holding(state_dir: Path, pipeline: FeatureSpec) -> Holding | None:
    """The artifact that champion.json says to hold; None before the first judgement.

    Raises ContractMismatch (exit 78) naming every column or ticker that differs, DataError when it was altered.
    """
    pointer = state_dir / "champion.json"
    if not pointer.exists():
        return None
    record = read_json(pointer)
    artifact = PolicyArtifact.load(state_dir / "artifacts" / record["holds"])
    artifact.require_spec(pipeline)
    for policy in artifact.policies:
        policy.actor()  # refuses weights of another shape now, not at the first bar
    return Holding(artifact=artifact, artifact_id=record["holds"], is_champion=record["champion"] is not None)
