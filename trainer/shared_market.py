"""The prepared market of a fold: made once, kept as a file, mapped by every worker that trains on it.

However many train, the pages are in memory once. The mapping is private: a write would change a copy in its own process
and never the file. The file is a cache. A damaged one is made anew; where the disk has no room for one, the market stays
in the worker's own memory, which costs nothing but that memory.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from structlog.typing import FilteringBoundLogger
from torch import Tensor

from features.errors import DataError
from features.files import disk_full, held, write_atomic
from features.observation import LAYOUT_VERSION
from features.scaling import Scaler
from features.spec import FeatureSpec
from trainer.vector_env import MarketTensors

FORMAT = 1  # bumped by hand whenever the same identity comes to mean other numbers


def identity(*, data_sha256: str, spec: FeatureSpec, scaler: Scaler, bars: range) -> dict[str, Any]:
    """Everything that the numbers depend on, as plain JSON."""
    return {
        "format": FORMAT, "layout": LAYOUT_VERSION, "torch": torch.__version__, "data_sha256": data_sha256,
        "fingerprint": spec.fingerprint, "scaler": scaler.to_dict(), "bars": [bars.start, bars.stop],
    }  # fmt: skip


class SharedMarkets:
    """The markets in `folder`, one file each. `pause` is called while another process makes one."""

    def __init__(self, folder: Path, *, lock: Path, pause: Callable[[], None], log: FilteringBoundLogger) -> None:
        self._folder, self._lock, self._pause, self._log = folder, lock, pause, log
        self._told = False

    def market(self, what: Mapping[str, Any], make: Callable[[], MarketTensors]) -> MarketTensors:
        """The market of this `identity`, on the processor; `make` is called only when no file has it."""
        name = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        path = self._folder / f"{name}.safetensors"
        if (found := self._whole(path)) is not None:
            return found
        made: MarketTensors | None = None
        try:
            with held(self._lock, pause=self._pause):
                if (found := self._whole(path)) is not None:  # another worker's, meanwhile
                    return found
                made = make()
                write_atomic(path, packed(made))
                return self._whole(path) or made
        except OSError as error:
            if not disk_full(error):
                raise
            if not self._told:
                self._log.warning("fold.not_shared", reason=str(error))
                self._told = True
        return made or make()

    def _whole(self, path: Path) -> MarketTensors | None:
        try:
            return mapped(path)
        except DataError as error:
            self._log.warning("fold.damaged", path=str(path), reason=str(error))
            return None


def packed(market: MarketTensors) -> bytes:
    """One safetensors blob with a checksum."""
    tensors = {"market": market.market, "bars": market.bars}
    data: bytes = save(tensors, metadata={"crc32": _checksum(tensors)})
    return data


def mapped(path: Path) -> MarketTensors | None:
    """What the file holds, without a copy; None when there is none. DataError when it is not what was written.

    It stays valid when the file is replaced or deleted.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {n: file.get_tensor(n) for n in ("market", "bars")}
            stored = (file.metadata() or {}).get("crc32")
    except FileNotFoundError:
        return None
    except SafetensorError as error:
        raise DataError(f"{path.name} cannot be read: {error}") from error
    if stored != _checksum(tensors):
        raise DataError(f"{path.name} does not match its checksum")
    return MarketTensors(**tensors)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    crc = 0
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.numpy().data, crc)
    return f"{crc:08x}"
