"""The ops port answers to hosts that nobody on the web can own."""

import socket

import pytest

from image_gateway.ops.own_names import is_own, own_names

NAMES = frozenset({"gw1.corp.example", "gw1"})


@pytest.mark.parametrize(
    "host",
    [
        None,
        "127.0.0.1",
        "127.0.0.1:19083",
        "10.1.2.3:19083",
        "[::1]",
        "[::1]:19083",
        "[fe80::1%eth0]:19083",
        "[::ffff:127.0.0.1]:1",
        "localhost",
        "LocalHost:19083",
        "localhost.",
        "image-gateway:19083",
        "gw1.corp.example",
        "GW1.Corp.Example.:19083",
    ],
)
def test_addresses_names_without_a_dot_and_own_names_are_answered(host: str | None) -> None:
    assert is_own(host, NAMES)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:19083",
        "gw1.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1:19083.evil.example",
        "localhost.evil.example:19083",
        "evil.example#127.0.0.1",
        "evil.example/127.0.0.1",
        "127.0.0.1@evil.example",
        "[::1].evil.example",
        "[evil.example]",
        "127.0.0.1, evil.example",
        "10.1.2.3.4",
        "corp.example",
        "1.2.3.4:99999999",
    ],
)
def test_names_that_somebody_may_own_are_not(host: str) -> None:
    assert not is_own(host, NAMES)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
async def test_a_port_that_only_this_machine_reaches_needs_no_names(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getfqdn", None)  # nothing is looked up
    assert await own_names((host, 19083)) == frozenset()


async def test_a_port_that_others_reach_has_the_machines_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "GW1")
    monkeypatch.setattr(socket, "getfqdn", lambda: "gw1.corp.example.")
    assert await own_names(("0.0.0.0", 1)) == {"0.0.0.0", "gw1", "gw1.corp.example"}


async def test_a_resolver_that_fails_costs_the_full_name_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> str:
        raise OSError

    monkeypatch.setattr(socket, "gethostname", lambda: "gw1")
    monkeypatch.setattr(socket, "getfqdn", fail)
    assert await own_names(("gateway.internal", 1)) == {"gateway.internal", "gw1"}
