"""A key and an account of its own for each test on the shared daemon."""

import json
import secrets
from collections.abc import Callable, Mapping
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


@dataclass(frozen=True)
class Kind:
    """A kind of account: its row, and where its base is on the upstream."""

    base: str
    row: Mapping[str, Any]
    signed: tuple[str, str]


TOKEN = ("authorization", "Bearer token-1")
KINDS = {
    "codex": Kind("/codex", {"dialect": "codex", "credential": {"access_token": "token-1"}}, TOKEN),
    "codex-responses": Kind(
        "/codex",
        {
            "dialect": "codex",
            "credential": {"access_token": "token-1"},
            "responses_model": "gpt-main",
            "codex_route": "responses",
        },
        TOKEN,
    ),
    "azure-legacy": Kind(
        "/some/base?trace=1",
        {
            "dialect": "azure",
            "api_version": "2025-04-01-preview",
            "credential": {"api_key": "key-1"},
            "deployments": {"gpt-image-2": "my deployment"},
        },
        ("api-key", "key-1"),
    ),
    "azure-v1": Kind(
        "",
        {
            "dialect": "azure",
            "credential": {"access_token": "token-1"},
            "deployments": {"gpt-image-2": "mine"},
        },
        TOKEN,
    ),
    "openai": Kind("/v1", {"dialect": "openai", "credential": {"api_key": "token-1"}}, TOKEN),
}

MakeDoor = Callable[..., Door]


def open_door(
    gateway: Gateway,
    plane: Plane,
    upstream: ScriptedUpstream,
    kind: str,
    key: Mapping[str, Any] | None = None,
    **row: Any,
) -> Door:
    """A fresh key that may use one fresh account of a kind."""
    name = f"account-{secrets.token_hex(4)}"
    plane.add_account(name, upstream.root + KINDS[kind].base, **{**KINDS[kind].row, **row})
    key_id = f"key-{secrets.token_hex(4)}"
    secret = plane.add_key(key_id=key_id, **{"account_names": [name], **(key or {})})
    return Door(gateway, plane, key_id, secret, name)


@pytest.fixture
def make_account(gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream) -> MakeDoor:
    """A maker of keys for one account of a kind, on the shared daemon."""

    def make(kind: str, **options: Any) -> Door:
        return open_door(gateway, shared_plane, upstream, kind, **options)

    return make


def frames_of(body: bytes) -> list[dict[str, Any]]:
    """A stream's events; each is a whole frame whose name is its type."""
    assert body.endswith(b"\n\n")
    found = []
    for each in body.removesuffix(b"\n\n").split(b"\n\n"):
        lines = each.decode().split("\n")
        if lines == [": keep-alive"]:
            continue
        data = json.loads(lines[-1].removeprefix("data: "))
        assert lines[:-1] in ([f"event: {data['type']}"], [])
        found.append(data)
    return found
