"""The language model as one more proposer: one bounded question after an analysis, off unless the configuration says so.

This module, and with it the network client, is imported only when it is on.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp
import tenacity

from daemon.advisor.desk import Desk
from daemon.advisor.llm_text import PROPOSER, answer, question
from daemon.advisor.proposals import Reason, Refusal
from daemon.advisor.records import Bounds, Trial
from daemon.child.advisor_config import LlmConfig

CREDENTIAL = "llm_api_key"
REPLY_BYTES = 65_536
KEPT_LETTERS = 16_384  # of a reply, in the audit log; its hash is of the whole
ATTEMPTS = 3
STOP_POLL_S = 0.5


class NoAnswer(Exception):
    """The exchange came to nothing; `reason` is what it is counted as."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason


class Busy(NoAnswer):
    """The server may answer if it is asked again."""


def consult(
    desk: Desk, config: LlmConfig, analysis: Mapping[str, Any], bounds: Mapping[str, Bounds], trials: Sequence[Trial], *,
    key: str | None, should_stop: Callable[[], bool] = lambda: False,
) -> list[Refusal | None]:  # fmt: skip
    """Ask once; put what is of the form before the desk, count the rest. Nothing that comes back raises."""
    asked = question(analysis, model=config.model, most=config.max_proposals)
    prompt_sha256 = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    try:
        body = asyncio.run(_asked(config, asked, key, should_stop))
    except NoAnswer as error:
        refusal = Refusal(reason=error.reason, detail=str(error))
        desk.refuse(PROPOSER, refusal, prompt_sha256=prompt_sha256, model=config.model)
        return [refusal]
    found = answer(body, most=config.max_proposals)
    desk.note(
        "asked", proposer=PROPOSER, prompt_sha256=prompt_sha256, model=found.model or config.model,
        reply_sha256=hashlib.sha256(body).hexdigest(), reply=body.decode(errors="replace")[:KEPT_LETTERS],
    )  # fmt: skip
    for refusal in found.refusals:
        desk.refuse(PROPOSER, refusal, prompt_sha256=prompt_sha256)
    return [*desk.propose(found.proposals, bounds, trials), *found.refusals]


async def _asked(
    config: LlmConfig, asked: Mapping[str, Any], key: str | None, should_stop: Callable[[], bool]
) -> bytes:  # fmt: skip
    """The reply's bytes, within the time for the whole exchange, or NoAnswer."""
    exchange = asyncio.create_task(_with_retries(config, asked, key))
    loop = asyncio.get_running_loop()
    until_s = loop.time() + config.timeout_s
    while not exchange.done() and (left_s := until_s - loop.time()) > 0 and not should_stop():
        await asyncio.wait({exchange}, timeout=min(STOP_POLL_S, left_s))
    if exchange.done():
        return exchange.result()
    exchange.cancel()
    await asyncio.wait({exchange})
    raise NoAnswer("timeout", f"no answer within {config.timeout_s:g} s")


async def _with_retries(config: LlmConfig, asked: Mapping[str, Any], key: str | None) -> bytes:
    again = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(Busy), stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=0.5, max=8.0), reraise=True,
    )  # fmt: skip
    reply: bytes = await again(_once, config, asked, key)
    return reply


async def _once(config: LlmConfig, asked: Mapping[str, Any], key: str | None) -> bytes:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    url = config.address.rstrip("/") + "/chat/completions"
    try:
        # no proxy of the environment, and no redirect: the key goes to the configured address and nowhere else
        async with (
            aiohttp.ClientSession(trust_env=False, timeout=aiohttp.ClientTimeout(total=config.timeout_s)) as session,
            session.post(url, json=asked, headers=headers, allow_redirects=False) as response,
        ):
            if response.status == 429 or response.status >= 500:
                raise Busy("unreachable", f"HTTP {response.status}")
            if response.status != 200:
                raise NoAnswer("unreachable", f"HTTP {response.status}")
            return await _capped(response.content)
    except aiohttp.ClientConnectionError as error:
        raise Busy("unreachable", f"no connection: {type(error).__name__}") from error
    except aiohttp.ClientError as error:
        raise NoAnswer("malformed", f"not HTTP as it should be: {type(error).__name__}") from error
    except TimeoutError as error:
        raise NoAnswer("timeout", f"no answer within {config.timeout_s:g} s") from error


async def _capped(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    while chunk := await content.read(REPLY_BYTES):
        body += chunk
        if len(body) > REPLY_BYTES:
            raise NoAnswer("too large", f"more than {REPLY_BYTES} bytes")
    return bytes(body)
