"""Calls that outlive their connection: one whose client gives up and tries again, and one that is
submitted and fetched later.
"""

import asyncio
import base64
from typing import Final

import aiohttp
from openai import APIError, AsyncOpenAI
from yarl import URL

from image_gateway.demo.output import DemoError, save, say
from image_gateway.demo.sample_upstream import SampleUpstream

MODEL: Final = "gpt-image-2"
_RETRIED: Final = "A whale under the northern lights"
_SUBMITTED: Final = "A tram in the rain at night"
_SUBMITTED_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.25
_TIMEOUT_SECONDS: Final = 2.0
_SLOW_SECONDS: Final = 5.0
"""Longer than the SDK's first two tries take with the pauses between them, and shorter than three:
the third one gets the picture.
"""


async def retry(base_url: str, secret: str, upstream: SampleUpstream) -> None:
    """An SDK whose time-out is shorter than its picture takes buys one picture, and gets it."""
    say(
        f"a client that gives up after {_TIMEOUT_SECONDS:.0f} s, and an upstream that takes "
        f"{_SLOW_SECONDS:.0f} s, with the SDK's own retries: {_RETRIED!r}"
    )
    bought = upstream.purchases
    with upstream.slowed(_SLOW_SECONDS):
        async with AsyncOpenAI(
            base_url=base_url, api_key=secret, timeout=_TIMEOUT_SECONDS
        ) as client:
            try:
                answer = await client.images.with_raw_response.generate(
                    model=MODEL, prompt=_RETRIED, size="1024x1024"
                )
            except APIError as error:
                raise DemoError(f"no try of the SDK got the picture: {error}") from None
    purchases = upstream.purchases - bought
    tries = answer.retries_taken + 1
    source = answer.headers.get("x-call-source")
    say(f"  the SDK tried {tries} times, because each try but the last ended at its time-out")
    say(f"  the upstream was asked for {purchases} picture{'' if purchases == 1 else 's'}")
    say(f"  the answer that arrived has x-call-source: {source} ({_MEANINGS.get(source or '')})")
    if purchases != 1:
        raise DemoError(f"one picture was wanted, and {purchases} were bought")
    save("retried.png", base64.b64decode((answer.parse().data or [])[0].b64_json or ""))


_MEANINGS: Final = {
    "made": "this try started the call",
    "joined": "the call of the first try was still running",
    "taken-over": "the call of the first try had lost its client",
    "replayed": "the call of the first try had ended, and its answer was kept",
}


async def submit(base_url: str, secret: str) -> None:
    """A call without an open connection: its id at once, and the picture by an address later."""
    say(f"submitting a call and asking for it later, without an open connection: {_SUBMITTED!r}")
    headers = {"authorization": f"Bearer {secret}"}
    async with asyncio.timeout(_SUBMITTED_SECONDS), aiohttp.ClientSession() as session:
        async with session.post(
            f"{base_url}/images/generations",
            json={"model": MODEL, "prompt": _SUBMITTED, "response_format": "url"},
            headers={**headers, "prefer": "respond-async"},
        ) as response:
            if response.status != 202:
                raise DemoError(f"the call was answered with {response.status}, not with its id")
            page = response.url.join(URL(response.headers["location"]))
            say(f"  202: its id is {(await response.json())['id']}, its page is {page}")
        polls = 0
        while True:
            async with session.get(page, headers=headers) as response:
                polls += 1
                answer = await response.json()
                if response.status != 202:
                    break
            await asyncio.sleep(_POLL_SECONDS)
        if response.status != 200:
            raise DemoError(f"the call ended with {response.status}: {answer}")
        say(f"  asked {polls} times: the last answer had the picture's address")
        # The token in it is all that a reader needs.
        async with session.get(answer["data"][0]["url"]) as response:
            if response.status != 200:
                raise DemoError(f"the picture's address was answered with {response.status}")
            say(f"  fetched it there without a key, as {response.content_type}")
            save("submitted.png", await response.read())
