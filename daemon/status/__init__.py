"""Status v1: `record` is what is known, `reading` gathers it, `pace` and `alerts` judge it, `render` draws it.

Light on purpose: no numpy, no structlog, no pandas. The command line must answer while you blink.
"""
