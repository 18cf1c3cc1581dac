"""Small file systems of our own to fill to the last byte: a tmpfs, and an ext4 in a file. Root is needed to mount them."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

KINDS = ("tmpfs", "ext4")


@contextlib.contextmanager
def mounted(kind: str, place: Path, *, size_mib: int) -> Iterator[Path]:
    """A fresh file system at `place`; the test is skipped with the system's reason where it may not be mounted."""
    place.mkdir()
    if kind == "tmpfs":
        commands = [["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(place)]]
    else:
        image = place.with_suffix(".img")
        with image.open("wb") as file:
            file.truncate(size_mib * 2**20)
        # blocks as large as a page: with smaller ones a full disk is a SIGBUS in SQLite's shared memory
        commands = [
            ["mkfs.ext4", "-q", "-b", "4096", "-m", "0", str(image)],
            ["mount", "-o", "loop", str(image), str(place)],
        ]
    for command in commands:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip(f"{command[0]} is not installed")
        if done.returncode:
            pytest.skip(f"cannot mount a {kind} of our own: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path, *, leave_bytes: int = 0) -> Path:
    """Take all room but `leave_bytes`. Returns the file to delete or to shorten."""
    filler = place / "filler"
    with filler.open("ab", buffering=0) as file:
        for piece in (1 << 20, 1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * piece) == piece:
                    pass
    if leave_bytes:
        with filler.open("r+b") as file:
            file.truncate(max(0, filler.stat().st_size - leave_bytes))
    return filler
