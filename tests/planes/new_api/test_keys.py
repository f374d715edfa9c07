"""Keys of new-api as the gateway sees them: who may call, over which channels, with what left."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.planes.new_api.database import UNIT, NewApi, secret_of

pytestmark = pytest.mark.slow

OF_DEFAULT = ("3", "1", "2#0", "2#2", "5")
"""Channels of the group default: greater priority first, then greater weight."""

KEYS: dict[str, tuple[str, tuple[str, ...], float]] = {
    "Active": ("active", OF_DEFAULT, 10),
    "Banned": ("user_inactive", OF_DEFAULT, 10),
    "Exhausted": ("active", OF_DEFAULT, 0),
    "Limited": ("active", OF_DEFAULT, 1),
    "Ips": ("ip_restricted", OF_DEFAULT, 1),
    "Svip": ("group_not_allowed", (), 1),
    "Auto": ("active", ("4", *OF_DEFAULT), 1),
    "Empty": ("active", OF_DEFAULT, 0),
    "Vip": ("active", ("4",), 1),
    "Orphan": ("user_inactive", (), 0),
    "Off": ("disabled", OF_DEFAULT, 10),
}


def test_keys_may_do_what_new_api_allows_them(api: NewApi) -> None:
    for name, expected in KEYS.items():
        key = api.key(secret_of(name))
        assert (key.status, key.account_names, key.cost_remaining) == expected, name
        assert (key.image_enabled, key.group_image_enabled, key.quota_allows) == (True, True, True)
        assert key.quota_remaining is None
    active = api.key(secret_of("Active"))
    assert active.key_hash == hashlib.sha256(secret_of("Active").encode()).hexdigest()
    assert (active.key_id, active.key_name, active.group_id) == ("1", "ok", "default")
    assert (active.owner_id, active.owner_max_concurrency) == ("1", None)
    assert (active.allowed_models, active.model_map, active.expires_at) == (None, {}, None)
    assert api.key(secret_of("Auto")).group_id == "auto"
    assert api.key(secret_of("Vip")).group_id == "vip"


def test_a_deleted_key_and_the_key_of_no_text_are_unknown(api: NewApi) -> None:
    assert api.key_row(secret_of("Deleted")) is None
    api.insert("tokens", id=9000, user_id=1, key="", unlimited_quota=True)
    assert api.key_row("sk-") is None


def test_only_the_key_with_its_prefix_is_known(api: NewApi) -> None:
    assert api.key_row(secret_of("Active")[3:]) is None


@pytest.mark.parametrize("text", ["back\\slash", "a\\101", "é", "with blank", "'quoted'", "%_"])
def test_any_text_may_be_a_key(api: NewApi, text: str) -> None:
    api.add_token("odd", key=text, id=9001)
    try:
        assert api.key(f"sk-{text}").key_id == "9001"
    finally:
        api.execute("DELETE FROM tokens WHERE id = 9001")


def test_the_padding_of_an_old_column_is_no_part_of_a_key(fresh: NewApi) -> None:
    fresh.execute('ALTER TABLE tokens ALTER "key" TYPE char(48)')
    fresh.install()
    short = fresh.add_token("short", key="short")
    assert fresh.key_row(short) is None
    assert fresh.key("sk-short").key_name == "short"


@pytest.mark.parametrize(
    ("expired_time", "ends"),
    [
        (-1, None),
        (1_700_000_000, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (None, datetime(1970, 1, 1, tzinfo=UTC)),
        (-2, datetime(1970, 1, 1, tzinfo=UTC)),
        (2**63 - 1, datetime.fromtimestamp(250_000_000_000, UTC)),
    ],
)
def test_the_end_of_a_key_is_told(
    api: NewApi, request: pytest.FixtureRequest, expired_time: int | None, ends: datetime | None
) -> None:
    secret = api.add_token(f"End{request.node.callspec.id}", expired_time=expired_time)
    assert api.key(secret).expires_at == ends


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (1, ("active", True)),
        (2, ("disabled", True)),
        (3, ("expired", True)),
        # Used up, which new-api notes only without Redis; it takes the mark away itself.
        (4, ("active", False)),
        (0, ("disabled", True)),
        (None, ("disabled", True)),
    ],
)
def test_each_status_refuses_as_it_does_in_new_api(
    api: NewApi, status: int | None, expected: tuple[str, bool]
) -> None:
    secret = api.add_token(f"Status{status}", status=status)
    key = api.key(secret)
    assert (key.status, key.quota_allows) == expected


@pytest.mark.parametrize(
    ("limits", "allowed"),
    [
        ("gpt-image-2,gpt-5.5", {"gpt-image-2", "gpt-5.5"}),
        ("", set()),
        (None, set()),
        ("a,,b", {"a", "b"}),
    ],
)
def test_a_key_with_a_list_of_models_may_use_these_alone(
    api: NewApi, limits: str | None, allowed: set[str]
) -> None:
    secret = api.add_token(f"Models{limits}", model_limits_enabled=True, model_limits=limits)
    assert api.key(secret).allowed_models == frozenset(allowed)


@pytest.mark.parametrize(
    ("addresses", "status"),
    [
        (None, "active"),
        (" \n,\n", "active"),
        ("10.0.0.0/8", "ip_restricted"),
        ("\n ,10.0.0.1", "ip_restricted"),
    ],
)
def test_a_list_of_addresses_is_never_lifted(
    api: NewApi, addresses: str | None, status: str
) -> None:
    secret = api.add_token(f"Ips{addresses!r}"[:40], allow_ips=addresses)
    assert api.key(secret).status == status


@pytest.mark.parametrize(
    ("token", "user", "left"),
    [
        ({"unlimited_quota": True, "remain_quota": 0}, UNIT, 1),
        ({"unlimited_quota": False, "remain_quota": UNIT // 2}, UNIT, 0.5),
        ({"unlimited_quota": None, "remain_quota": 2 * UNIT}, UNIT, 1),
        ({"unlimited_quota": False, "remain_quota": None}, UNIT, 0),
        ({"unlimited_quota": True}, -UNIT, -1),
        ({"unlimited_quota": True}, None, 0),
        ({"unlimited_quota": False, "remain_quota": 1}, UNIT, 1 / UNIT),
    ],
)
def test_what_is_left_is_the_least_of_the_keys_and_the_users_quota(
    api: NewApi,
    request: pytest.FixtureRequest,
    token: dict[str, Any],
    user: int | None,
    left: float,
) -> None:
    owner = api.add_user(quota=user)
    secret = api.add_token(f"Left{request.node.callspec.id}", user_id=owner, **token)
    assert api.key(secret).cost_remaining == left


def test_the_size_of_a_unit_is_new_api_s(fresh: NewApi) -> None:
    fresh.install()
    for value, left in (("1000000", 5), ("0", 10), ("x", 10), ('"5"', 10), ("5e5", 10)):
        fresh.set_option("QuotaPerUnit", value)
        assert fresh.key(secret_of("Active")).cost_remaining == left, value
    fresh.execute("DELETE FROM options")
    assert fresh.key(secret_of("Active")).cost_remaining == 10


# -- groups ----------------------------------------------------------------------------------------


def of_group(api: NewApi, secret: str) -> tuple[str, tuple[str, ...] | None]:
    key = api.key(secret)
    return key.status, key.account_names


def test_a_key_may_always_be_of_its_users_group_if_that_has_a_ratio(api: NewApi) -> None:
    svip = api.add_user(group="svip")
    lost = api.add_user(group="lost")
    only = api.add_channel("svip", "lost")
    assert of_group(api, api.add_token("OwnS", user_id=svip, group="svip")) == ("active", (only,))
    # It is its user's own without being asked for.
    assert of_group(api, api.add_token("Lost", user_id=lost)) == ("active", (only,))
    named = api.add_token("LostNamed", user_id=lost, group="lost")
    assert of_group(api, named) == ("group_not_allowed", ())


def test_groups_are_added_and_taken_for_a_group_of_users(fresh: NewApi) -> None:
    fresh.install()
    svip = fresh.add_channel("svip")
    special = {"default": {"+:svip": "x", "-:vip": "x"}, "vip": {"svip": "x"}}
    fresh.set_option("group_ratio_setting.group_special_usable_group", json.dumps(special))
    assert of_group(fresh, secret_of("Svip")) == ("active", (svip,))
    taken = fresh.add_token("Taken", group="vip")
    assert of_group(fresh, taken) == ("group_not_allowed", ())
    assert of_group(fresh, secret_of("Auto")) == ("active", OF_DEFAULT)
    of_vip = fresh.add_token("OfVip", user_id=5, group="svip")
    assert of_group(fresh, of_vip) == ("active", (svip,))


def test_settings_that_are_missing_or_unreadable_are_new_api_s_own(fresh: NewApi) -> None:
    fresh.install()
    in_vip = fresh.add_token("InVip", group="vip")
    for value in (None, "not json", "[]", "5", "null"):
        if value is None:
            fresh.execute("DELETE FROM options")
        else:
            for name in ("UserUsableGroups", "GroupRatio", "AutoGroups"):
                fresh.set_option(name, "{}" if name == "AutoGroups" and value == "[]" else value)
        assert of_group(fresh, in_vip) == ("active", ("4",)), value
        assert of_group(fresh, secret_of("Svip")) == ("group_not_allowed", ()), value
        # Built in is the group default alone.
        assert of_group(fresh, secret_of("Auto")) == ("active", OF_DEFAULT), value


def test_auto_takes_the_groups_that_the_user_may_use_in_their_order(fresh: NewApi) -> None:
    fresh.install()
    auto = secret_of("Auto")
    fresh.set_option("AutoGroups", '["default", "svip", 5, "vip", "default", null]')
    assert of_group(fresh, auto) == ("active", (*OF_DEFAULT, "4"))
    fresh.set_option("AutoGroups", "[]")
    assert of_group(fresh, auto) == ("group_not_allowed", ())


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ('["default"]', ("active", OF_DEFAULT)),
        ('["svip", "vip"]', ("active", ("4",))),
        ('["svip"]', ("group_not_allowed", ())),
        # It has no list of its own.
        ("", ("active", ("4", *OF_DEFAULT))),
        (None, ("active", ("4", *OF_DEFAULT))),
        ("[]", ("active", ("4", *OF_DEFAULT))),
        ("null", ("active", ("4", *OF_DEFAULT))),
        # What cannot be read allows nothing.
        ("vip,default", ("group_not_allowed", ())),
        ('{"vip": 1}', ("group_not_allowed", ())),
    ],
)
def test_a_key_of_a_newer_new_api_may_have_its_own_groups(
    newer: NewApi, listed: str | None, expected: tuple[str, tuple[str, ...]]
) -> None:
    newer.execute("UPDATE tokens SET auto_groups = %(listed)s", {"listed": listed})
    assert of_group(newer, secret_of("Auto")) == expected
    # Other groups than auto take no notice of it.
    assert of_group(newer, secret_of("Vip")) == ("active", ("4",))


@pytest.fixture(scope="module")
def newer(server_url: str) -> Any:
    """A new-api whose tokens have lists of groups."""
    made = NewApi(server_url)
    made.create_bare()
    made.execute("ALTER TABLE tokens ADD auto_groups text")
    made.install()
    yield made
    made.drop()


# -- channels of a key -----------------------------------------------------------------------------


def test_a_higher_priority_comes_first_and_equal_channels_share(api: NewApi) -> None:
    assert api.key(secret_of("Active")).route_strategy == "fixed"
    assert api.key(secret_of("Vip")).route_strategy == "auto"
    group = "prior"
    user = api.add_user(group=group)
    light = api.add_channel(group)
    heavy = api.add_channel(group, weight=5)
    secret = api.add_token("Prior", user_id=user)
    key = api.key(secret)
    assert (key.account_names, key.route_strategy) == ((heavy, light), "auto")
    last = api.add_channel(group, priority=-1, weight=9)
    first = api.add_channel(group, priority=7)
    key = api.key(secret)
    assert (key.account_names, key.route_strategy) == ((first, heavy, light, last), "fixed")


def test_a_channel_without_an_image_model_or_switched_off_serves_no_key(api: NewApi) -> None:
    group = "off"
    user = api.add_user(group=group)
    secret = api.add_token("OffGroup", user_id=user)
    api.add_channel(group, models="gpt-5.5,dall-e")
    api.add_channel(group, status=2)
    api.add_channel(group, type=24)
    assert api.key(secret).account_names == ()
    both = api.add_channel(group, models="gpt-image-1,gpt-image-2,gpt-5.5")
    assert api.key(secret).account_names == (both,)
    api.execute(
        "UPDATE abilities SET enabled = false WHERE model = 'gpt-5.5' AND channel_id = " + both
    )
    assert api.key(secret).account_names == (both,)
    # A switch that is off stays off, also where another model of the channel is on.
    for off in ("false", "NULL"):
        api.execute(
            f"UPDATE abilities SET enabled = {off} WHERE model = 'gpt-image-1'"
            f" AND channel_id = {both}"
        )
        assert api.key(secret).account_names == ()


def test_models_whose_names_do_not_tell_it_can_be_named(api: NewApi) -> None:
    group = "named"
    secret = api.add_token("Named", user_id=api.add_user(group=group))
    named = api.add_channel(group, models="flux,text")
    assert api.key(secret).account_names == ()
    assert named not in api.accounts()
    api.insert("image_adapter.image_models", model="flux")
    assert api.key(secret).account_names == (named,)
    assert api.accounts()[named].deployments == {"flux": "flux"}


def test_a_group_may_be_given_accounts_that_new_api_does_not_have(api: NewApi) -> None:
    api.insert("image_adapter.accounts", account_name="own", dialect="openai")
    secret = api.add_token("Own", user_id=api.add_user(group="own"))
    assert api.key(secret).account_names == ()
    api.insert("image_adapter.group_accounts", group_id="own", account_name="own")
    assert api.key(secret).account_names == ("own",)
    channel = api.add_channel("own")
    assert api.key(secret).account_names == (channel, "own")
    assert api.accounts()["own"].dialect == "openai"


def test_options_of_the_gateway_bind_a_key(api: NewApi) -> None:
    secret = api.add_token("Options")
    key_id = api.key(secret).key_id
    api.insert(
        "image_adapter.key_options",
        key_id=key_id,
        image_enabled=False,
        max_concurrency=2,
        min_start_interval_ms=250,
        images_remaining=7,
        json_keepalive_seconds=9,
    )
    key = api.key(secret)
    assert (key.image_enabled, key.max_concurrency, key.min_start_interval_ms) == (False, 2, 250)
    assert (key.images_remaining, key.json_keepalive_seconds) == (7, 9)
