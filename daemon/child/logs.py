"""One log pipeline for every program: structlog and the standard library end in the same JSON lines."""

import logging
import logging.handlers
import os
import re
import sys
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

SCHEMA = 1
MAX_RECORD_BYTES = 16_384
_SECRET_KEY = re.compile(r"(secret|password|passphrase|token|api[-_]?key|authorization|apca)", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"((?:secret|password|passphrase|token|api[-_]?key|authorization|apca[-\w]*)['\"]?\s*[:=]\s*['\"]?)([^\s'\",}&]+)",
    re.IGNORECASE,
)
_NOISY = ("ccxt", "urllib3", "requests", "websockets", "alembic", "sqlalchemy", "optuna", "asyncio")


def configure_logging(*, component: str, child: str, path: Path | None, level: int = logging.INFO) -> None:
    """Send everything to `path` as JSON lines, or to standard error when there is none.

    One write per record on a file opened for appending; a renamed file is opened anew, so rotation loses nothing.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars, structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"), _stamp(component, child),
    ]  # fmt: skip
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.format_exc_info,
            redact, structlog.processors.JSONRenderer(default=str),
        ],
    )  # fmt: skip
    handler: logging.Handler
    if path is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.WatchedFileHandler(path)
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
    """Last before rendering: secrets by key and inside texts, and a cap on the size of any one text."""
    for key, value in event.items():
        if _SECRET_KEY.search(key):
            event[key] = "[redacted]"
        elif isinstance(value, str):
            event[key] = _SECRET_TEXT.sub(r"\1[redacted]", value)[:MAX_RECORD_BYTES]
        elif isinstance(value, dict | list | tuple):
            event[key] = _SECRET_TEXT.sub(r"\1[redacted]", str(value))[:MAX_RECORD_BYTES]
    return event


def _stamp(component: str, child: str) -> Any:
    run_id = os.environ.get("INVOCATION_ID", "")

    def stamp(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.update(component=component, child=child, pid=os.getpid(), schema=SCHEMA)
        event["mono"] = round(time.monotonic(), 6)
        if run_id:
            event["run_id"] = run_id
        return event

    return stamp
