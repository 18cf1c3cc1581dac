"""A training as bytes: tensors and a plain record in one safetensors blob. No pickle."""

import json
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from features.errors import DataError

RECORD = "record"


class CheckpointRefused(DataError):
    """It is none, or belongs to another training; the training can begin anew."""


def pack(tensors: dict[str, Tensor], record: dict[str, Any]) -> bytes:
    """`record` is plain JSON; floats keep every bit."""
    text = torch.frombuffer(bytearray(json.dumps(record).encode()), dtype=torch.uint8)
    data: bytes = save({n: t.detach().cpu().contiguous() for n, t in tensors.items()} | {RECORD: text})
    return data


def unpack(packed: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """CheckpointRefused when the bytes are not a checkpoint."""
    try:
        tensors = load(packed)
        record: dict[str, Any] = json.loads(bytes(tensors.pop(RECORD).tolist()))
    except Exception as error:
        raise CheckpointRefused(f"not a checkpoint: {error}", hint="delete it") from error
    return tensors, record


def require_same(stored: dict[str, Any], now: dict[str, Any]) -> None:
    """CheckpointRefused naming every difference: another training's checkpoint must not be continued."""
    lines = [f"{n}: stored {stored.get(n)!r}, now {now[n]!r}" for n in now if stored.get(n) != now[n]]
    if lines:
        raise CheckpointRefused(
            "the checkpoint belongs to another training:\n  " + "\n  ".join(lines),
            hint="delete it",
        )
