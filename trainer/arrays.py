"""Arrays as the bytes of a file, so that the file can be written as one step."""

import io
from typing import Any

import numpy as np


def npz(**arrays: Any) -> bytes:
    """What `np.load` reads back, compressed."""
    with io.BytesIO() as file:
        np.savez_compressed(file, **arrays)
        return file.getvalue()
