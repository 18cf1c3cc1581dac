"""One log pipeline for every program: structlog and the standard library end in the same JSON lines.

Record v1: `ts` (UTC), `mono`, `level`, `event`, `component`, `child`, `pid`, `schema`, `run_id` under systemd, and the
facts of the event. Event names are API: docs/events.md lists them, a test holds it to the source.
"""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

from daemon.child.log_file import RecordFile

SCHEMA = 1
MAX_RECORD_BYTES = 16_384  # journald splits lines above 48 KiB; nobody reads one that long
_REDACTED = "[redacted]"
_SECRET_KEY = re.compile(
    r"(secret|password|passphrase|token|api[-_]?key|authorization|apca|credential|cookie)", re.IGNORECASE
)
_SECRET_TEXT = re.compile(
    r"((?:secret|password|passphrase|token|api[-_]?key|authorization|apca[-\w]*|credential|cookie)\w*['\"]?\s*[:=]\s*['\"]?"
    r"(?:(?:bearer|basic|token)\s+)?)([^\s'\",}&]+)",
    re.IGNORECASE,
)
_SECRET_URL = (
    (re.compile(r"(://)[^/\s:@]*:[^/\s@]+(?=@)"), r"\1" + _REDACTED),  # user:password@host
    (re.compile(r"(/webhooks/\d+/|/services/|/bot)[^\s'\"?]+"), r"\1" + _REDACTED),  # Discord, Slack, Telegram
    (re.compile(r"\b(discord://|slack://|tgram://|mailtos?://)[^\s'\"]+"), r"\1" + _REDACTED),  # apprise's own forms
)
_NOISY = ("ccxt", "urllib3", "requests", "websockets", "alembic", "sqlalchemy", "optuna", "asyncio", "apscheduler")


def configure_logging(*, component: str, child: str, path: Path | None, level: int = logging.INFO) -> None:
    """Send everything to `path` as JSON lines, or to standard error when there is none.

    Redaction comes last, after libraries' records and tracebacks have become text.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars, structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"), _stamp(component, child),
    ]  # fmt: skip
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.format_exc_info,
            redact, render,
        ],
    )  # fmt: skip
    handler: logging.Handler = logging.StreamHandler(sys.stderr) if path is None else RecordFile(path)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level)
    for name in _NOISY:  # ccxt prints key and secret at DEBUG; SQLAlchemy takes INFO for "echo every statement"
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(), cache_logger_on_first_use=False,
    )  # fmt: skip


def get_logger() -> FilteringBoundLogger:
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Secrets by the name of their key, at any depth, and inside every text."""
    for key, value in event.items():
        event[key] = _REDACTED if _SECRET_KEY.search(key) else _without_secrets(value)
    return event


def render(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    """One JSON line of at most MAX_RECORD_BYTES: the longest texts are cut until it fits, and `cut` says so."""
    line, longest = json.dumps(event), MAX_RECORD_BYTES // 2
    while len(line) > MAX_RECORD_BYTES:  # the text is ASCII: characters are bytes
        event = {k: v if k in _LABELS else _cut(v, longest) for k, v in event.items()}
        line, longest = json.dumps({**event, "cut": True}), longest // 2
        if not longest:  # nothing but names is left to cut
            line = json.dumps({**{k: v for k, v in event.items() if k in _LABELS}, "cut": True})[:MAX_RECORD_BYTES]
    return line


_LABELS = frozenset({"ts", "mono", "level", "component", "child", "pid", "schema", "run_id"})


def _without_secrets(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(k): _REDACTED if _SECRET_KEY.search(str(k)) else _without_secrets(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_without_secrets(v) for v in value]
    text = _SECRET_TEXT.sub(rf"\1{_REDACTED}", str(value))
    for pattern, replacement in _SECRET_URL:
        text = pattern.sub(replacement, text)
    return text


def _cut(value: Any, longest: int) -> Any:
    text = value if isinstance(value, str) else json.dumps(value)
    return value if len(text) <= longest else text[:longest] + "…"


def _stamp(component: str, child: str) -> Any:
    run_id = os.environ.get("INVOCATION_ID", "")

    def stamp(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.update(component=component, child=child, pid=os.getpid(), schema=SCHEMA)
        event["mono"] = round(time.monotonic(), 6)
        if run_id:
            event["run_id"] = run_id
        return event

    return stamp
