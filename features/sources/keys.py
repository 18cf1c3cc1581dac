"""The pair of keys a venue knows an account by."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """Both halves, never shown: a record that ends in a log line or a traceback says only that it exists."""

    key_id: str = field(repr=False)
    secret: str = field(repr=False)
