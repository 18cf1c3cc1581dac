"""Small files for others to read now: replaced as one step, not forced to disk, so that the loop never waits for one."""

from pathlib import Path


def publish(path: Path, data: bytes) -> None:
    """A reader sees the old bytes or the new; a power cut may lose the newest. Raises OSError, on a full disk too."""
    draft = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
