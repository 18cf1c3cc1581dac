"""The outside: messages through apprise, and a ping that somebody else misses when it stops. Addresses are secrets."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import requests
from apprise import Apprise, AppriseAsset, NotifyType

from daemon.child.credentials import credential
from daemon.notifier.messages import Level, Message
from features.errors import ConfigurationError

URLS, PING = "notify_urls", "ping_url"
_TYPES: dict[Level, Literal[NotifyType.INFO, NotifyType.WARNING, NotifyType.FAILURE]] = {
    "info": NotifyType.INFO, "warn": NotifyType.WARNING, "fail": NotifyType.FAILURE,
}  # fmt: skip


class Senders:
    """Everyone who is told. Raises ConfigurationError for an address that is not understood, naming only its place."""

    def __init__(self, urls: Sequence[str]) -> None:
        # its own log lines hold whole addresses, tokens included
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
        self._apprise = Apprise(asset=AppriseAsset(app_id="cappuccino", app_desc="cappuccino", app_url=""))
        for number, url in enumerate(urls, start=1):
            if not self._apprise.add(url):
                scheme = url.partition("://")[0] if "://" in url else "none"
                raise ConfigurationError(
                    f"address {number} in {URLS} is not understood (scheme {scheme})",
                    hint="see apprise's list of services: discord://, tgram://, mailtos://, json://, …",
                )

    def __len__(self) -> int:
        return len(self._apprise)

    def send(self, message: Message, *, host: str) -> tuple[str, ...]:
        """Tell everybody; the schemes of those that could not be told. Waits for each service's own time limit."""
        refused = []
        for service in self._apprise:
            told = service.notify(
                title=f"cappuccino on {host}: {message.title}", body=message.body or message.title,
                notify_type=_TYPES[message.level],
            )  # fmt: skip
            if not told:
                refused.append(service.url(privacy=True).partition("://")[0])  # type: ignore[no-untyped-call]
        return tuple(refused)


class Ping:
    """A dead man's switch: an address that is asked for at intervals; its owner raises the alarm when that stops."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigurationError(
                f"{PING} is not an http address", hint="healthchecks.io gives one such as https://hc-ping.com/…"
            )
        # urllib3 logs whole addresses at DEBUG
        logging.getLogger("urllib3").setLevel(logging.WARNING)
        self._url, self._timeout_s = url, timeout_s

    def send(self) -> str:
        """What went wrong, without the address; empty when it arrived."""
        try:
            answer = requests.get(self._url, timeout=self._timeout_s)
        except requests.RequestException as error:
            return type(error).__name__
        return "" if answer.ok else f"HTTP {answer.status_code}"


def addresses(directory: Path) -> tuple[tuple[str, ...], str | None]:
    """(notification addresses, ping address) from the credentials; several are separated by commas."""
    found = credential(URLS, directory)
    urls = tuple(u for u in (found or "").split(",") if u)
    return urls, credential(PING, directory)
