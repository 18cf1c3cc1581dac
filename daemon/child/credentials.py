"""Secrets come from files: systemd's credential directory, or files that only their owner can read.

Never from environment variables: every child inherits those, and `/proc` shows them. A secret is read where it is
needed and handed on as an argument; nothing here logs, and `KeyPair` does not show what it holds.
"""

import os
import stat
from pathlib import Path

from features.errors import ConfigurationError
from features.sources.keys import KeyPair

ALPACA = ("alpaca_key_id", "alpaca_secret_key")
BINANCE = ("binance_key_id", "binance_secret_key")  # of its sandbox


def alpaca_keys(directory: Path) -> KeyPair | None:
    """The keys of the Alpaca paper account, or None where there are none."""
    return key_pair(ALPACA, directory)


def key_pair(names: tuple[str, str], directory: Path) -> KeyPair | None:
    """The key and the secret of these names, or None where there are none; one without the other is an error."""
    found = {name: credential(name, directory) for name in names}
    absent = [name for name, text in found.items() if text is None]
    if len(absent) == 1:
        raise ConfigurationError(
            f"the credential {absent[0]} is missing, its other half is there",
            hint=f"put it into {directory / absent[0]} (mode 0600), or remove both",
        )
    key_id, secret = found.values()
    return None if key_id is None or secret is None else KeyPair(key_id=key_id, secret=secret)


def credential(name: str, directory: Path) -> str | None:
    """The secret called `name`: `$CREDENTIALS_DIRECTORY/name` if there, else `directory/name`, else None.

    Raises ConfigurationError for a file in `directory` that others may read, or that holds no single line of text.
    systemd guards its own directory by access control lists, which a file mode does not show: modes there are not
    judged.
    """
    if (given := os.environ.get("CREDENTIALS_DIRECTORY")) and (Path(given) / name).exists():
        return _secret(Path(given) / name, private=False)
    path = directory.expanduser() / name
    return _secret(path, private=True) if path.exists() else None


def _secret(path: Path, *, private: bool) -> str:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())  # of what was opened: the name may point elsewhere a moment later
            if private and (mode := stat.S_IMODE(status.st_mode)) & 0o077:
                raise ConfigurationError(f"{path} has mode {mode:04o}: others may use it", hint=f"chmod 600 {path}")
            content = file.read()
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}", hint="it must be a file that belongs to the user who runs this"
        ) from error
    text = content.decode("ascii", "replace").strip()
    if not text or any(not "!" <= letter <= "~" for letter in text):
        raise ConfigurationError(
            f"{path} does not hold one word of plain text", hint="write the secret and nothing else into it"
        )
    return text
