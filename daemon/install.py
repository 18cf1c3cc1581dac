"""Which files make cappuccino a systemd service, and what of them is missing or different: pure but for reading them.

The shipped unit names /opt/cappuccino; what is installed names the program that installs it. The operator's own
changes belong into a drop-in (`systemctl edit cappuccino`), which is never touched; a configuration that exists is
never overwritten.
"""

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal

from features.errors import ConfigurationError

SHIPPED_PROGRAM = "/opt/cappuccino/bin/cappuccinoctl"
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108  what ProtectHome and PrivateTmp hide


class Kind(Enum):
    """A service of the machine, or of one user's session."""

    SYSTEM = "system"
    USER = "user"


SYSTEM, USER = Kind.SYSTEM, Kind.USER


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the files go. root: "/" or the root of an image that is being made; home: of the user, for USER."""

    kind: Kind
    root: Path
    home: Path

    @property
    def unit(self) -> Path:
        if self.kind is USER:
            return self._under(self.home) / ".config" / "systemd" / "user" / "cappuccino.service"
        return self._under(Path("/etc/systemd/system/cappuccino.service"))

    @property
    def config(self) -> Path:
        if self.kind is USER:
            return self._under(self.home) / ".config" / "cappuccino" / "config.toml"
        return self._under(Path("/etc/cappuccino/config.toml"))

    @property
    def sysusers(self) -> Path:
        return self._under(Path("/etc/sysusers.d/cappuccino.conf"))

    @property
    def tmpfiles(self) -> Path:
        return self._under(Path("/etc/tmpfiles.d/cappuccino.conf"))

    @property
    def owned(self) -> tuple[Path, ...]:
        """What an uninstall removes; the configuration is the operator's."""
        return (self.unit,) if self.kind is USER else (self.unit, self.sysusers, self.tmpfiles)

    def _under(self, path: Path) -> Path:
        return self.root / path.relative_to("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What installing does to one file. diff: unified, for a replacement."""

    path: Path
    action: Literal["create", "replace", "same", "keep"]
    content: bytes
    diff: str = ""


def wanted_files(layout: Layout, *, program: Path, shipped: Path, config: bytes) -> dict[Path, bytes]:
    """The content of every file. shipped: the folder of the unit files."""
    if layout.kind is USER:
        names = {layout.unit: "cappuccino.user.service"}
    else:
        names = {
            layout.unit: "cappuccino.service", layout.sysusers: "cappuccino.sysusers.conf",
            layout.tmpfiles: "cappuccino.tmpfiles.conf",
        }  # fmt: skip
    files = {
        path: (shipped / name).read_text().replace(SHIPPED_PROGRAM, str(program)).encode()
        for path, name in names.items()
    }
    return {**files, layout.config: config}


def plan(existing: Mapping[Path, bytes | None], wanted: Mapping[Path, bytes], *, keep: Path) -> tuple[Change, ...]:
    """keep: the file that is only ever created."""
    return tuple(_change(path, existing.get(path), content, keep=path == keep) for path, content in wanted.items())


def require_visible(*paths: Path) -> None:
    """Refuse a program that the hardened unit could not see. Raises ConfigurationError."""
    for path in paths:
        if any(path.is_relative_to(hidden) for hidden in HIDDEN):
            raise ConfigurationError(
                f"{path} is hidden from a hardened service (ProtectHome, PrivateTmp)",
                hint="install cappuccino into /opt/cappuccino, or use --user",
            )


def this_program() -> Path:
    return Path(sys.prefix) / "bin" / "cappuccinoctl"


def shipped_units() -> Path:
    """The folder of the unit files: beside the packages in a checkout, else where the wheel put them."""
    checkout = Path(__file__).resolve().parents[1] / "systemd"
    return (
        checkout
        if (checkout / "cappuccino.service").exists()
        else Path(sys.prefix) / "share" / "cappuccino" / "systemd"
    )


def current_files(layout: Layout) -> tuple[Change, ...]:
    """What installing this very program again would change."""
    wanted = wanted_files(layout, program=this_program(), shipped=shipped_units(), config=b"")
    existing = {path: path.read_bytes() if path.exists() else None for path in wanted}
    return plan(existing, wanted, keep=layout.config)


def differing(changes: tuple[Change, ...]) -> list[Path]:
    return [c.path for c in changes if c.action in ("create", "replace") and c.content]


def _change(path: Path, before: bytes | None, content: bytes, *, keep: bool) -> Change:
    if before is None:
        return Change(path=path, action="create", content=content)
    if before == content:
        return Change(path=path, action="same", content=content)
    if keep:
        return Change(path=path, action="keep", content=before)
    lines = difflib.unified_diff(
        before.decode(errors="replace").splitlines(keepends=True), content.decode().splitlines(keepends=True),
        fromfile=f"{path} (installed)", tofile=f"{path} (shipped)",
    )  # fmt: skip
    return Change(path=path, action="replace", content=content, diff="".join(lines))
