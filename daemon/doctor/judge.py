"""What the facts mean: pure functions from what was measured to findings."""

from collections.abc import Mapping, Sequence

from daemon.doctor.finding import Finding, Level, ok

Version = tuple[int, int, int]
WAL_RESET_SINCE, WAL_RESET_FIXED = (3, 7, 0), (3, 51, 3)
WAL_RESET_BACKPORTS: Mapping[tuple[int, int], int] = {
    (3, 44): 6,
    (3, 50): 7,
}  # minor version → first patch with the fix
OFFSET_WARN_S = 2.0  # NTP keeps within milliseconds; two seconds says nothing keeps it
INODES_WARN = 10_000  # a study of 200 trials writes some thousand files
TALIB_MIN = (0, 8)  # the first C library whose stream handles equal its batch functions bit for bit


def sqlite_version(version: Version) -> Finding:
    """The WAL-reset race (3.7.0 to 3.51.2): two connections that checkpoint at once can lose pages."""
    text = "SQLite " + ".".join(map(str, version))
    fixed_at = WAL_RESET_BACKPORTS.get(version[:2])
    fixed = version >= WAL_RESET_FIXED or (fixed_at is not None and version[2] >= fixed_at)
    if version < WAL_RESET_SINCE:
        return Finding(
            check="sqlite", level="fail", text=f"{text} has no write-ahead log", remedy="use a newer Python build"
        )
    if fixed:
        return ok("sqlite", text)
    return Finding(
        check="sqlite", level="warn",
        text=f"{text} has the WAL-reset race; the service keeps one writer per database and is safe from it",
        remedy="do not write to its databases with other tools while it runs; fixed in SQLite 3.51.3",
    )  # fmt: skip


def clock_state(*, synchronised: bool | None, max_error_s: float) -> Finding:
    """synchronised: what the kernel says (adjtimex); None where it cannot be asked."""
    if synchronised is None:
        return Finding(
            check="clock", level="warn", text="the kernel does not say whether the clock is synchronised",
            remedy="make sure that chrony or systemd-timesyncd runs on the host",
        )  # fmt: skip
    if not synchronised:
        return Finding(
            check="clock", level="warn", text="nothing keeps the clock right (kernel: unsynchronised)",
            remedy="run chrony or systemd-timesyncd: bars are taken by this clock",
        )  # fmt: skip
    return ok("clock", f"synchronised, within {1000 * max_error_s:.0f} ms")


def clock_offset(offset_s: float, *, grace_s: float) -> Finding:
    """offset_s: this clock minus the venue's. Within the grace after a bar's close it does no harm."""
    text = f"this clock is {abs(offset_s):.1f} s {'ahead of' if offset_s >= 0 else 'behind'} the venue's"
    if abs(offset_s) >= grace_s:
        return Finding(
            check="clock offset", level="fail", text=text, remedy="set the clock; run chrony or systemd-timesyncd"
        )
    if abs(offset_s) >= OFFSET_WARN_S:
        return Finding(check="clock offset", level="warn", text=text, remedy="run chrony or systemd-timesyncd")
    return ok("clock offset", text)


def disk(
    path: str, *, free_bytes: int, total_bytes: int, free_inodes: int, warn_bytes: int, floor_bytes: int
) -> Finding:
    """free_inodes: -1 where the file system has no limit of its own."""
    text = f"{path}: {free_bytes / 1e9:.1f} GB free of {total_bytes / 1e9:.0f} GB"
    if free_bytes < floor_bytes:
        return Finding(
            check="disk",
            level="fail",
            text=f"{text}: no trial would start",
            remedy="free space, or lower janitor.floor_free_bytes",
        )
    if 0 <= free_inodes < INODES_WARN:
        return Finding(
            check="disk", level="warn", text=f"{path}: {free_inodes} inodes free", remedy="remove small files"
        )
    if free_bytes < warn_bytes:
        return Finding(
            check="disk",
            level="warn",
            text=text,
            remedy="cappuccinoctl janitor --dry-run, or lower janitor.warn_free_bytes",
        )
    return ok("disk", text)


def packages(owners: Mapping[str, Sequence[str]], parents: Mapping[str, str]) -> Finding:
    """owners: distributions that claim each of our packages; parents: the folder each one is imported from."""
    strangers = {name: sorted(set(who) - {"cappuccino"}) for name, who in owners.items() if set(who) - {"cappuccino"}}
    if strangers:
        listing = "; ".join(f"{name} belongs to {', '.join(who)} too" for name, who in strangers.items())
        return Finding(
            check="packages",
            level="fail",
            text=listing,
            remedy="install cappuccino into a virtual environment of its own",
        )
    absent = [name for name, parent in parents.items() if not parent]
    if absent:
        return Finding(
            check="packages",
            level="fail",
            text=f"{', '.join(absent)} cannot be imported",
            remedy="install cappuccino again",
        )
    if len(set(parents.values())) > 1:
        listing = ", ".join(f"{name} from {parent}" for name, parent in parents.items())
        return Finding(
            check="packages", level="fail", text=f"the packages come from different places: {listing}",
            remedy="remove the second copy: training and trading must run one code",
        )  # fmt: skip
    return ok("packages", f"all four from {next(iter(parents.values()))}")


def private(check: str, path: str, *, mode: int, owner: int, us: int) -> Finding:
    """A file or folder that only its owner shall use. mode: permission bits; owner, us: user ids."""
    if owner not in (us, 0) and us != 0:
        return Finding(
            check=check, level="fail", text=f"{path} belongs to user {owner}", remedy=f"chown it to user {us}"
        )
    if mode & 0o077:
        open_to = "write" if mode & 0o022 else "read"
        right = "700" if check == "state" else "600"
        level: Level = "fail" if check == "secrets" or mode & 0o022 else "warn"
        return Finding(
            check=check,
            level=level,
            text=f"others may {open_to} {path} (mode {mode:04o})",
            remedy=f"chmod {right} {path}",
        )
    return ok(check, f"{path} is private")


def credentials(
    needed: Sequence[tuple[str, tuple[str, ...]]], present: frozenset[str], directory: str
) -> list[Finding]:
    """needed: (what needs it, names of which one must be there)."""
    found = []
    for who, names in needed:
        if present & set(names):
            found.append(ok("credentials", f"{who}: {', '.join(sorted(present & set(names)))}"))
        else:
            found.append(
                Finding(
                    check="credentials", level="fail", text=f"{who} needs {' or '.join(names)}: absent",
                    remedy=f"write it to {directory} (mode 0600), or give it to systemd (docs/operations.md)",
                )
            )  # fmt: skip
    return found or [ok("credentials", "this configuration needs none")]


def backup(name: str, *, age_s: float, every_s: float) -> Finding:
    """Of the newest backup. A day's grace: a machine may have been off, and a failed one is tried again within the hour."""
    text = f"the newest backup, {name}, is {max(0.0, age_s) / 86_400:.1f} days old"
    if age_s > every_s + 86_400:
        return Finding(
            check="backups", level="warn", text=text,
            remedy="cappuccinoctl backup makes one, or says why not; so does cappuccinoctl logs janitor",
        )  # fmt: skip
    return ok("backups", text)


def locks(*, supervisor_runs: bool, socket_exists: bool, answers: bool) -> Finding:
    """Who holds the state directory. A socket without a listener is what a crash leaves; the next start replaces it."""
    if supervisor_runs and not answers:
        return Finding(
            check="daemon", level="fail", text="a supervisor holds the state directory and does not answer",
            remedy="systemctl restart cappuccino; if it runs in a shell, kill -ABRT it: that prints where it stands",
        )  # fmt: skip
    if supervisor_runs:
        return ok("daemon", "runs and answers")
    return ok(
        "daemon", "does not run" + (" (it left its socket behind; the next start replaces it)" if socket_exists else "")
    )


def gpu(names: Sequence[str], *, driver_files: Sequence[str], device: str) -> Finding:
    """driver_files: device files of cards that the system knows of; device: study.device."""
    if not names and driver_files:
        return Finding(
            check="gpu", level="warn", text=f"{', '.join(driver_files)} exist, but no card answers",
            remedy="check the driver (nvidia-smi, rocm-smi); in a unit: PrivateDevices=no and DeviceAllow=",
        )  # fmt: skip
    if not names and device == "cuda":
        return Finding(
            check="gpu", level="fail", text="study.device is cuda and there is no card",
            remedy='study.device = "cpu", or a driver for the card (docs/operations.md)',
        )  # fmt: skip
    where = "on the card" if device == "cuda" else "on the processor (study.device)"
    return ok("gpu", f"{', '.join(names) or 'none'}; training runs {where}")


def talib(c_library: tuple[int, int]) -> Finding:
    text = f"TA-Lib C library {'.'.join(map(str, c_library))}"
    if c_library < TALIB_MIN:
        return Finding(
            check="ta-lib", level="fail", text=f"{text} is too old: streamed features would differ from trained ones",
            remedy="pip install -c constraints.txt ta-lib, which brings its own",
        )  # fmt: skip
    return ok("ta-lib", text)


def exit_code(findings: Sequence[Finding]) -> int:
    return 1 if any(f.level == "fail" for f in findings) else 0
