"""A key and an account of its own for each test on the shared daemon."""

import secrets
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from tests.parts.gateway import Gateway, parse, post
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream


@dataclass
class Door:
    """One key, its accounts, and the daemon in front of them."""

    gateway: Gateway
    plane: Plane
    key_id: str
    secret: str
    account: str

    def client(self, **options: Any) -> openai.AsyncOpenAI:
        return self.gateway.client(self.secret, **options)

    async def record(self, **wanted: Any) -> dict[str, Any]:
        """The one record of this key."""
        return await self.gateway.record(key_id=self.key_id, **wanted)

    async def post(
        self, body: bytes, path: str = "/v1/images/generations", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """A POST of bytes; status, headers and body of the answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return parse(await self.gateway.raw(post(self.secret, body, path, named)))


def make_door(gateway: Gateway, plane: Plane, upstream: ScriptedUpstream, **key: Any) -> Door:
    """A fresh key that may use one fresh account at ``upstream``."""
    name = f"account-{secrets.token_hex(4)}"
    plane.add_account(name, upstream.url)
    key_id = f"key-{secrets.token_hex(4)}"
    secret = plane.add_key(key_id=key_id, **{"account_names": [name], **key})
    return Door(gateway, plane, key_id, secret, name)


@pytest.fixture
def door(gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream) -> Door:
    """A key that works, on the shared daemon."""
    return make_door(gateway, shared_plane, upstream)
