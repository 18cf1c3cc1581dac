"""ccxt, one exchange at a time.

`import ccxt` reads all of its hundred exchanges: 55 MB and a third of a second in a process that needs one for months.
Here its package stands without its `__init__` while one module is read; who imports ccxt whole gets the same classes.
"""

import contextlib
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any

from features.errors import ConfigurationError


@contextlib.contextmanager
def _bare_package() -> Iterator[None]:
    if "ccxt" in sys.modules:
        yield
        return
    found = find_spec("ccxt")
    assert found is not None
    sys.modules["ccxt"] = module_from_spec(found)
    try:
        yield
    finally:
        del sys.modules["ccxt"]


with _bare_package():
    errors = import_module("ccxt.base.errors")
    DECIMAL_PLACES = import_module("ccxt.base.decimal_to_precision").DECIMAL_PLACES


def exchange_class(exchange: str) -> Any:
    """ccxt's client class of that name. Raises ConfigurationError for an unknown one."""
    with _bare_package():
        spec = find_spec(f"ccxt.{exchange}") if exchange.isidentifier() else None
        if spec is None or spec.submodule_search_locations is not None:  # what is no exchange is a package
            raise ConfigurationError(
                f"ccxt knows no exchange {exchange!r}", hint="see market.exchange; for example binance"
            )
        return getattr(import_module(spec.name), exchange)
