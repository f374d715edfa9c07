"""Settings: every mistake at once, no secret in any of them, and defaults that hold."""

import ipaddress
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from image_gateway import app, config
from image_gateway.config import SETTINGS, Settings, SettingsError
from image_gateway.core.dialects import DIALECTS
from image_gateway.core.model import Secret
from image_gateway.core.records.prices import Price
from image_gateway.core.request import catalogue
from tests.core.builders import CATALOGUE, PRICES

P = "IMAGE_GATEWAY_"
DSN = "postgresql://reader:hush4711@db/plane"
MIB = 1024 * 1024


def _reader(files: Mapping[str, str | Exception]) -> config.Read:
    def read(path: Path) -> str:
        found = files.get(str(path), FileNotFoundError(2, "No such file or directory"))
        if isinstance(found, Exception):
            raise found
        return found

    return read


def _parse(
    named: Mapping[str, str],
    *,
    toml: str | None = None,
    files: Mapping[str, str | Exception] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Settings from names without their prefix, in a world that is otherwise empty."""
    found = dict(files or {})
    variables = {f"{P}{name}": value for name, value in named.items()}
    if toml is not None:
        found["/etc/gateway.toml"] = toml
        variables[f"{P}CONFIG"] = "/etc/gateway.toml"
    return config.parse({**variables, **(environment or {})}, _reader(found))


def _good(named: Mapping[str, str] | None = None, toml: str | None = None) -> Settings:
    return _parse({"CONTROL_DATABASE_URL": DSN, **(named or {})}, toml=toml)


def _mistakes(
    named: Mapping[str, str],
    *,
    toml: str | None = None,
    files: Mapping[str, str | Exception] | None = None,
) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as raised:
        _parse(named, toml=toml, files=files)
    error = raised.value
    shown = "".join(traceback.format_exception(error)) + repr(error)
    assert "hush4711" not in shown
    assert str(error).splitlines() == list(error.mistakes)
    return error.mistakes


def _mistake(named: Mapping[str, str] | None = None, toml: str | None = None) -> str:
    [mistake] = _mistakes({"CONTROL_DATABASE_URL": DSN, **(named or {})}, toml=toml)
    return mistake


# -- defaults --------------------------------------------------------------------------------


def test_one_setting_is_enough_and_the_others_have_the_promised_defaults() -> None:
    assert _good() == Settings(
        bind=("127.0.0.1", 19082),
        ops_bind=("127.0.0.1", 19083),
        control_database_url=Secret(DSN),
        direct_database_url=Secret(DSN),
        log_dir=Path("logs"),
        state_dir=Path("state"),
        log_max_file_bytes=64 * MIB,
        log_max_file_seconds=86_400.0,
        log_max_files=30,
        prompt_hash_key=None,
        credential_key_file=None,
        credential_key=None,
        grant_ttl_seconds=5.0,
        grant_max_stale_seconds=600.0,
        start_wait_seconds=30.0,
        drain_seconds=630.0,
        max_request_bytes=64 * MIB,
        max_part_bytes=50_000_000,
        max_parts=64,
        memory_budget_bytes=256 * MIB,
        spool_budget_bytes=4 * 1024 * MIB,
        spool_dir=Path("/var/tmp"),
        body_seconds=120.0,
        body_idle_seconds=20.0,
        send_seconds=60.0,
        total_seconds=570.0,
        connect_seconds=10.0,
        upstream_idle_seconds=60.0,
        attempt_seconds={"codex": 360.0, "azure": 540.0, "openai": 540.0},
        keepalive_seconds=15.0,
        slots="shared",
        slot_wait_seconds=30.0,
        slot_queue=100,
        max_connections=2048,
        budget_threshold_percent=95.0,
        default_model="gpt-image-2",
        forward_parameters=frozenset(),
        codex_base_url="https://chatgpt.com/backend-api/codex",
        codex_client_version="0.169.0",
        text_api_url=None,
        ambient_image_tool="refuse",
        when_client_leaves="finish",
        retry_guard_seconds=90.0,
        keep_seconds=3600.0,
        keep_budget_bytes=4 * 1024 * MIB,
        keep_dir=Path("state/calls"),
        public_url=None,
        json_keepalive_seconds=0.0,
        cors_origins=frozenset(),
        trusted_proxies=(ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1")),
        models={},
        prices={},
    )


def test_the_table_and_the_settings_are_the_same_names() -> None:
    names = [setting.name.lower() for setting in SETTINGS]
    # What could write is for ``control`` alone: the daemon does not hold it.
    fields = set(Settings.__dataclass_fields__) - {"attempt_seconds", "credential_key"}
    seconds = {f"{name}_seconds" for name in DIALECTS}
    assert sorted(names) == sorted([*fields, *seconds, "admin_database_url"])
    assert all(setting.purpose for setting in SETTINGS)


def test_exactly_the_promised_settings_are_secrets_or_required() -> None:
    assert {each.name for each in SETTINGS if each.required} == {"CONTROL_DATABASE_URL"}
    assert {each.name for each in SETTINGS if each.secret} == {
        "ADMIN_DATABASE_URL",
        "CONTROL_DATABASE_URL",
        "DIRECT_DATABASE_URL",
        "PROMPT_HASH_KEY",
    }


def test_addresses_need_pictures_that_are_kept() -> None:
    named = {"CONTROL_DATABASE_URL": DSN, "PUBLIC_URL": "https://images.example.com"}
    [mistake] = _mistakes({**named, "KEEP_SECONDS": "0"})
    assert mistake == (
        "IMAGE_GATEWAY_PUBLIC_URL needs IMAGE_GATEWAY_KEEP_SECONDS above 0: addresses lead to "
        "pictures that are kept"
    )
    assert _parse({**named, "KEEP_SECONDS": "1"}).public_url == "https://images.example.com"


def test_stripping_the_image_tool_needs_a_text_api() -> None:
    named = {"CONTROL_DATABASE_URL": DSN, "AMBIENT_IMAGE_TOOL": "strip"}
    [mistake] = _mistakes(named)
    assert mistake == "IMAGE_GATEWAY_AMBIENT_IMAGE_TOOL strip needs IMAGE_GATEWAY_TEXT_API_URL"
    found = _parse({**named, "TEXT_API_URL": "http://127.0.0.1:8080"})
    assert found.ambient_image_tool == "strip"


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("127.0.0.1:19082", "http://127.0.0.1:19082"),
        ("127.0.0.1:19082", "http://localhost:19082/"),
        ("0.0.0.0:80", "http://127.0.0.1"),
        ("gateway.example:443", "https://gateway.example"),
    ],
)
def test_a_text_api_that_is_the_gateway_itself_is_a_mistake(bind: str, url: str) -> None:
    named = {"CONTROL_DATABASE_URL": DSN, "BIND": bind}
    [mistake] = _mistakes({**named, "TEXT_API_URL": url})
    assert mistake.startswith("IMAGE_GATEWAY_TEXT_API_URL leads to the gateway itself")
    assert _parse({**named, "TEXT_API_URL": "http://127.0.0.1:8080"}).text_api_url is not None
    assert _parse({**named, "TEXT_API_URL": "http://10.0.0.9:80"}).text_api_url is not None


@pytest.mark.parametrize(
    ("setting", "line"), [("models", 'quality = ["low"]'), ("prices", "text_in = 1.0")]
)
def test_a_name_with_a_dot_and_no_quotes_is_explained(setting: str, line: str) -> None:
    toml = f"[{setting}.gpt-5.5]\n{line}"
    [mistake] = _mistakes({"CONTROL_DATABASE_URL": DSN}, toml=toml)
    assert mistake.endswith('put a name with a dot in quotes: "gpt-5.5"')


def test_a_control_database_is_required() -> None:
    [mistake] = _mistakes({})
    assert mistake.startswith("IMAGE_GATEWAY_CONTROL_DATABASE_URL is missing")


def test_what_is_not_ours_in_the_environment_is_not_looked_at() -> None:
    foreign = {"PATH": "/bin", "IMAGE_GATEWAYS": "x", "XIMAGE_GATEWAY_BIND": "x", "BIND": "x"}
    assert _parse({"CONTROL_DATABASE_URL": DSN}, environment=foreign) == _good()


# -- values ----------------------------------------------------------------------------------

_GOOD_VALUES: list[tuple[str, str, Any]] = [
    ("BIND", "0.0.0.0:80", ("0.0.0.0", 80)),
    ("BIND", "[::1]:19082", ("::1", 19082)),
    ("BIND", "localhost:0", ("localhost", 0)),
    ("BIND", "127.0.0.1:65535", ("127.0.0.1", 65535)),
    ("CONTROL_DATABASE_URL", "host=db dbname=plane", Secret("host=db dbname=plane")),
    ("DIRECT_DATABASE_URL", "postgres://db/x", Secret("postgres://db/x")),
    ("LOG_DIR", "/var/log/x", Path("/var/log/x")),
    ("STATE_DIR", " /var/lib/x ", Path("/var/lib/x")),
    ("SPOOL_DIR", "/mnt", Path("/mnt")),
    ("LOG_MAX_FILES", "1", 1),
    ("PROMPT_HASH_KEY", "x" * 16, Secret("x" * 16)),
    ("MAX_REQUEST_BYTES", "1", 1),
    ("MAX_REQUEST_BYTES", "67108864", 67_108_864),
    ("MAX_REQUEST_BYTES", "7 B", 7),
    ("MAX_REQUEST_BYTES", "7KB", 7000),
    ("MAX_REQUEST_BYTES", "7 MB", 7_000_000),
    ("MAX_REQUEST_BYTES", "7 GB", 7_000_000_000),
    ("MAX_REQUEST_BYTES", "7KiB", 7168),
    ("MAX_REQUEST_BYTES", " 7 MiB ", 7 * MIB),
    ("MAX_REQUEST_BYTES", "7  GiB", 7 * 1024 * MIB),
    ("TOTAL_SECONDS", "0.5", 0.5),
    ("TOTAL_SECONDS", "600", 600.0),
    ("SLOTS", "process", "process"),
    ("SLOTS", "shared", "shared"),
    ("SLOT_WAIT_SECONDS", "0", 0.0),
    ("SLOT_WAIT_SECONDS", "2.5", 2.5),
    ("SLOT_QUEUE", "7", 7),
    ("OPS_BIND", "0.0.0.0:9", ("0.0.0.0", 9)),
    ("TEXT_API_URL", "http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ("TEXT_API_URL", "https://text.example/", "https://text.example/"),
    ("BUDGET_THRESHOLD_PERCENT", "0", 0.0),
    ("BUDGET_THRESHOLD_PERCENT", "100", 100.0),
    ("DEFAULT_MODEL", "gpt-image-1", "gpt-image-1"),
    ("FORWARD_PARAMETERS", "seed, style ,, ,", frozenset({"seed", "style"})),
    ("FORWARD_PARAMETERS", "", frozenset()),
    ("CODEX_BASE_URL", "http://10.0.0.1:8080/v1", "http://10.0.0.1:8080/v1"),
    ("CODEX_CLIENT_VERSION", "1.2.3", "1.2.3"),
    ("WHEN_CLIENT_LEAVES", "finish", "finish"),
    ("WHEN_CLIENT_LEAVES", "cancel", "cancel"),
    ("RETRY_GUARD_SECONDS", "0", 0.0),
    ("RETRY_GUARD_SECONDS", "2.5", 2.5),
    ("KEEP_SECONDS", "0", 0.0),
    ("KEEP_SECONDS", "86400", 86_400.0),
    ("KEEP_BUDGET_BYTES", "10 GB", 10_000_000_000),
    ("KEEP_DIR", "/srv/calls", Path("/srv/calls")),
    ("PUBLIC_URL", "https://images.example.com", "https://images.example.com"),
    ("PUBLIC_URL", " https://images.example.com/ ", "https://images.example.com"),
    ("PUBLIC_URL", "http://10.0.0.1:8080", "http://10.0.0.1:8080"),
    ("PUBLIC_URL", "http://[::1]:8080//", "http://[::1]:8080"),
    ("PUBLIC_URL", "https://example.com/my-images/v2/", "https://example.com/my-images/v2"),
    ("JSON_KEEPALIVE_SECONDS", "0", 0.0),
    ("JSON_KEEPALIVE_SECONDS", "30", 30.0),
    ("CORS_ORIGINS", "", frozenset()),
    ("CORS_ORIGINS", "*", frozenset({"*"})),
    (
        "CORS_ORIGINS",
        "https://app.example.com, http://localhost:3000,http://[::1]:8080",
        frozenset({"https://app.example.com", "http://localhost:3000", "http://[::1]:8080"}),
    ),
    ("CORS_ORIGINS", "chrome-extension://abcdef", frozenset({"chrome-extension://abcdef"})),
    ("TRUSTED_PROXIES", "", ()),
    ("TRUSTED_PROXIES", "::ffff:10.0.0.0/104", (ipaddress.ip_network("10.0.0.0/8"),)),
    ("TRUSTED_PROXIES", "::ffff:10.1.2.3", (ipaddress.ip_network("10.1.2.3"),)),
    ("TRUSTED_PROXIES", "::/0", (ipaddress.ip_network("::/0"),)),
    (
        "TRUSTED_PROXIES",
        "10.0.0.0/8,2001:db8::/32",
        (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32")),
    ),
]


@pytest.mark.parametrize(("name", "text", "value"), _GOOD_VALUES)
def test_a_value_is_read_as_a_person_would_write_it(name: str, text: str, value: object) -> None:
    assert getattr(_good({name: text}), name.lower()) == value


@pytest.mark.parametrize(
    ("toml", "name", "value"),
    [
        ('bind = "127.0.0.1:1"', "bind", ("127.0.0.1", 1)),
        ("max_request_bytes = 5", "max_request_bytes", 5),
        ('max_request_bytes = "5 KiB"', "max_request_bytes", 5120),
        ("body_seconds = 5", "body_seconds", 5.0),
        ("body_seconds = 0.25", "body_seconds", 0.25),
        ('body_seconds = "5"', "body_seconds", 5.0),
        ("log_max_files = 5", "log_max_files", 5),
        ("budget_threshold_percent = 50", "budget_threshold_percent", 50.0),
        ('forward_parameters = ["seed"]', "forward_parameters", frozenset({"seed"})),
        ("forward_parameters = []", "forward_parameters", frozenset()),
        ('trusted_proxies = ["::1"]', "trusted_proxies", (ipaddress.ip_network("::1"),)),
    ],
)
def test_the_file_may_use_toml_s_own_types(toml: str, name: str, value: object) -> None:
    assert getattr(_good(toml=toml), name) == value


_SIZES = [
    "LOG_MAX_FILE_BYTES",
    "MAX_REQUEST_BYTES",
    "MEMORY_BUDGET_BYTES",
    "SPOOL_BUDGET_BYTES",
    "KEEP_BUDGET_BYTES",
]
_TIMES = [
    "LOG_MAX_FILE_SECONDS",
    "GRANT_TTL_SECONDS",
    "GRANT_MAX_STALE_SECONDS",
    "START_WAIT_SECONDS",
    "DRAIN_SECONDS",
    "BODY_SECONDS",
    "BODY_IDLE_SECONDS",
    "SEND_SECONDS",
    "TOTAL_SECONDS",
    "CONNECT_SECONDS",
    "UPSTREAM_IDLE_SECONDS",
    "CODEX_SECONDS",
]
_WAITS = ["SLOT_WAIT_SECONDS", "RETRY_GUARD_SECONDS", "KEEP_SECONDS", "JSON_KEEPALIVE_SECONDS"]
_PATHS = ["LOG_DIR", "STATE_DIR", "SPOOL_DIR", "KEEP_DIR", "CREDENTIAL_KEY_FILE"]
_BAD_VALUES: list[tuple[str, str]] = [
    *[
        (name, text)
        for name in _SIZES
        for text in ("0", "-1", "", "1.5 MiB", "5 TB", "mib", "5mib")
    ],
    *[(name, text) for name in _TIMES for text in ("0", "-1", "", "5s", "inf", "nan", "1,5")],
    *[("LOG_MAX_FILES", text) for text in ("0", "-1", "", "1.5", "many", "inf")],
    *[("BUDGET_THRESHOLD_PERCENT", text) for text in ("-0.1", "100.1", "", "95%", "nan", "inf")],
    *[
        ("BIND", text)
        for text in ("", "19082", ":19082", "127.0.0.1", "host:", "host:x", "host:65536")
    ],
    *[("BIND", text) for text in ("host:-1", "host:+1", "host:\u00b2", "[]:5")],
    *[("CONTROL_DATABASE_URL", text) for text in ("", " ", "hush4711", "mysql://u:hush4711@h/d")],
    *[
        ("DIRECT_DATABASE_URL", text)
        for text in ("", "postgresql://u:hush4711@[h/d", "a='hush4711")
    ],
    *[("PROMPT_HASH_KEY", text) for text in ("", "hush4711", "x" * 15, " " * 20)],
    *[(name, text) for name in _PATHS for text in ("", "  ")],
    *[("SLOTS", text) for text in ("", "Shared", "Process", "2")],
    *[(name, text) for name in _WAITS for text in ("", "-1", "long", "inf")],
    *[("WHEN_CLIENT_LEAVES", text) for text in ("", "Finish", "leave", "true")],
    *[("SLOT_QUEUE", text) for text in ("", "0", "1.5")],
    *[("OPS_BIND", text) for text in ("", "19083", "host:")],
    *[
        ("TEXT_API_URL", text)
        for text in ("", "text", "ftp://h", "http://h/v1", "http://h?a=1", "http://u:p@h", "/v1")
    ],
    *[
        ("PUBLIC_URL", text)
        for text in (
            "",
            "/",
            "images.example.com",
            "ftp://h",
            "https://",
            "https://h?a=1",
            "https://h?",
            "https://h/#x",
            "https://h/v1",
            "https://h/images/v1/",
            "https://h/a//b",
            "https://h/../b",
            "https://h/.",
            "https://h/a%20b",
            "https://h/a b",
            "https://h:99999",
            "https://user:hush4711@h",
        )
    ],
    *[(name, "") for name in ("DEFAULT_MODEL", "CODEX_CLIENT_VERSION", "CODEX_BASE_URL")],
    *[("CODEX_BASE_URL", text) for text in ("chatgpt.com", "ftp://h/", "https://", "https://[h/")],
    *[
        ("CORS_ORIGINS", text)
        for text in (
            "app.example.com",
            "https://app.example.com/",
            "https://app.example.com/x",
            "https://App.example.com",
            "https://app.example.com:443",
            "http://app.example.com:80",
            "https://*.example.com",
            "https://user@example.com",
            "https://a.example.com b",
            "*, https://app.example.com",
            "null",
            "https://",
            "https://a:0",
        )
    ],
    *[("TRUSTED_PROXIES", text) for text in ("localhost", "10.0.0.1/8", "10.0.0.0/33", "1.2.3")],
    ("MODELS", "gpt-image-2"),
    *[("PRICES", text) for text in ("5", "[]", "gpt-image-2=5", "{", "[" * 100_000, "null")],
]


@pytest.mark.parametrize(("name", "text"), _BAD_VALUES)
def test_a_value_that_cannot_be_used_is_one_mistake_under_its_name(name: str, text: str) -> None:
    mistake = _mistake({name: text})
    assert mistake.startswith(f"{P}{name} ")
    # Our own words, and not those of a parser, which may quote what it could not read.
    assert any(word in mistake for word in ("must", "not allowed", "the URL"))


@pytest.mark.parametrize(
    "url",
    ["https://user:hush4711@host/", "https://host:99999/", "https://host:port/", "https://host/ x"],
)
def test_the_codex_base_url_is_held_to_what_an_account_s_is(url: str) -> None:
    """Its user name and password would show in the settings' repr, its port fails every call."""
    assert _mistake({"CODEX_BASE_URL": url}) == (
        f"{P}CODEX_BASE_URL must be an http or https URL without a user name or password, such as "
        "https://images.example.com"
    )


@pytest.mark.parametrize("version", ["1.0\r\nx: y", "1.0\x00", "é"])
def test_a_version_that_no_header_can_carry_is_a_mistake(version: str) -> None:
    """Found at start, not by every call."""
    assert _mistake({"CODEX_CLIENT_VERSION": version}).startswith(f"{P}CODEX_CLIENT_VERSION ")


@pytest.mark.parametrize(
    "toml",
    [
        "bind = 5",
        "log_dir = 5",
        "slots = 1",
        "max_request_bytes = 1.5",
        "max_request_bytes = true",
        "max_request_bytes = -5",
        "body_seconds = true",
        "body_seconds = []",
        "body_seconds = 2026-01-01",
        "log_max_files = true",
        "log_max_files = 5.0",
        "log_max_files = []",
        "log_max_files = inf",
        "budget_threshold_percent = true",
        "budget_threshold_percent = []",
        "forward_parameters = 5",
        "forward_parameters = [5]",
        'trusted_proxies = [["::1"]]',
        "default_model = 5",
        "prompt_hash_key = 1234567890123456789",
        "models = 5",
        "prices = 5",
        "prices = 2026-01-01",
        "[bind]",
    ],
)
def test_a_value_of_the_wrong_toml_type_is_a_mistake(toml: str) -> None:
    name = toml.strip("[]").split(" ")[0].upper()
    assert _mistake(toml=toml).startswith(f"{P}{name} ")


_SCALARS = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.just(datetime(2026, 1, 1, tzinfo=UTC)),
    st.sampled_from([10**400, -(10**400), float("inf")]),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=4,
)


@given(st.sampled_from(SETTINGS), _VALUES)
@example(next(each for each in SETTINGS if each.name == "LOG_MAX_FILES"), float("inf"))
@example(next(each for each in SETTINGS if each.name == "BODY_SECONDS"), 10**400)
@example(next(each for each in SETTINGS if each.name == "BUDGET_THRESHOLD_PERCENT"), 10**400)
def test_any_value_is_read_or_is_a_mistake(setting: config.Setting, value: object) -> None:
    """A ``ValueError`` is reported with all others; anything else would end in a traceback."""
    try:
        made = setting.parse(value)
    except ValueError as error:
        made = str(error)
    assert made not in {None, ""} if isinstance(made, str | None) else True


# -- models ----------------------------------------------------------------------------------


def test_an_operator_s_models_reach_the_catalogue() -> None:
    """The example of systemd/README.md."""
    made = _good(
        toml="""
        [models."gpt-image-9"]
        sizes = "free"
        quality = ["low", "high"]
        input_fidelity = []
        [models."gpt-image-2"]
        sizes = ["512x512"]
        """
    )
    text = Path(catalogue.__file__).with_name("catalogue.toml").read_text("utf-8")
    whole = catalogue.parse(text, made.models)
    assert set(whole.models) == {*CATALOGUE.models, "gpt-image-9"}
    assert whole.models["gpt-image-9"] == catalogue.ModelRules(
        "gpt-image-9", None, {"quality": ("low", "high"), "input_fidelity": ()}
    )
    assert whole.models["gpt-image-2"] == catalogue.ModelRules("gpt-image-2", ("512x512",), {})


@pytest.mark.parametrize(
    ("toml", "where"),
    [
        ("[models.a]\nsizes = 5", "a.sizes"),
        ("[models.a]\nquality = 'low'", "a.quality"),
        ("[models]\na = 5", "a must be a table"),
        ("[models.a]\nqualtiy = ['low']", "qualtiy"),
    ],
)
def test_a_broken_model_is_a_mistake_that_says_where(toml: str, where: str) -> None:
    """A misspelt parameter among them: a limit of that name would not hold."""
    mistake = _mistake(toml=toml)
    assert mistake.startswith(f"{P}MODELS ")
    assert where in mistake


# -- prices ----------------------------------------------------------------------------------

PRICED = {
    "gpt-5.5": Price(text_in=Decimal("1.25"), cached_text_in=Decimal("0.125"), text_out=Decimal(10))
}


def test_an_operator_s_prices_come_from_the_file_or_as_json() -> None:
    """The example of systemd/README.md."""
    toml = """
    [prices."gpt-5.5"]
    text_in = 1.25
    cached_text_in = 0.125
    text_out = 10
    """
    assert _good(toml=toml).prices == PRICED
    text = '{"gpt-5.5": {"text_in": 1.25, "cached_text_in": 0.125, "text_out": 10}}'
    assert _good({"PRICES": text}).prices == PRICED
    assert _good({"PRICES": "{}"}, toml=toml).prices == {}


def test_an_operator_s_prices_add_to_the_shipped_ones_and_replace_them() -> None:
    text = '{"gpt-image-2": {"image_out": 15}, "gpt-image-2.5-flare": {"image_out": 1}}'
    made = app.load_prices(_good({"PRICES": text}))
    assert made.of("gpt-image-2-2026-04-21") == Price(image_out=Decimal(15))
    assert made.of("gpt-image-2.5-flare") == Price(image_out=Decimal(1))
    assert made.of("gpt-image-2.5-sunburst") == PRICES.of("gpt-image-2.5-sunburst")


@pytest.mark.parametrize(
    ("toml", "where"),
    [
        ("[prices.a]\nimage_out = '30'", "a.image_out must be USD"),
        ("[prices.a]\nimage_out = -1", "a.image_out must be USD"),
        ("[prices.a]\nimage_out = nan", "a.image_out must be USD"),
        ("[prices.a]\nimages_out = 1", "a.images_out is unknown"),
        ("[prices.a]", "a is empty"),
        ("[prices]\na = 5", "a must be a table"),
    ],
)
def test_a_broken_price_is_a_mistake_that_says_where(toml: str, where: str) -> None:
    mistake = _mistake(toml=toml)
    assert mistake.startswith(f"{P}PRICES is not valid: ")
    assert where in mistake


# -- all at once -----------------------------------------------------------------------------


def test_every_mistake_is_reported_at_once() -> None:
    mistakes = _mistakes(
        {"BIND": "nowhere", "MISSPELT": "x", "PROMPT_HASH_KEY_FILE": "/no/such/file"},
        toml="body_seconds = -1\nunheard_of = 1\nLOG_MAX_FILES = 0",
    )
    for part in (
        "IMAGE_GATEWAY_CONTROL_DATABASE_URL is missing",
        "IMAGE_GATEWAY_BODY_SECONDS must",
        "unknown setting IMAGE_GATEWAY_UNHEARD_OF",
        "LOG_MAX_FILES must be written in lower case",
        "IMAGE_GATEWAY_LOG_MAX_FILES must",
        "IMAGE_GATEWAY_BIND must",
        "unknown setting IMAGE_GATEWAY_MISSPELT",
        "IMAGE_GATEWAY_PROMPT_HASH_KEY_FILE: /no/such/file cannot be read",
    ):
        assert len([mistake for mistake in mistakes if part in mistake]) == 1, part
    assert len(mistakes) == 8


@given(st.sets(st.sampled_from(_BAD_VALUES), max_size=6))
def test_as_many_mistakes_are_reported_as_settings_are_wrong(bad: set[tuple[str, str]]) -> None:
    named = dict(bad)
    named.setdefault("CONTROL_DATABASE_URL", DSN)
    wrong = {name for name, _ in bad}
    if wrong:
        assert {mistake.split(" ")[0] for mistake in _mistakes(named)} == {
            f"{P}{name}" for name in wrong
        }
    else:
        assert _parse(named) == _good()


@pytest.mark.parametrize(
    "name",
    ["BINDS", "bind", "MAX_BYTES", "LOG_MAX_FILES_FILE", "BIND_FILE", "_FILE", "", "CONFIG_FILE"],
)
def test_a_name_that_nobody_knows_is_a_mistake(name: str) -> None:
    assert _mistake({name: "hush4711"}) == f"unknown setting {P}{name}"


def test_the_file_cannot_name_another_file() -> None:
    assert _mistake(toml='config = "/etc/other.toml"') == f"unknown setting {P}CONFIG"


# -- the file --------------------------------------------------------------------------------


def test_the_environment_goes_before_the_file() -> None:
    toml = f'bind = "127.0.0.1:1"\nslots = "process"\ncontrol_database_url = "{DSN}"'
    made = _parse({"BIND": "127.0.0.1:2"}, toml=toml)
    assert made.bind == ("127.0.0.1", 2)
    assert made.control_database_url == Secret(DSN)


def test_the_environment_may_mend_the_file_s_mistake() -> None:
    assert _good({"BIND": "127.0.0.1:2"}, 'bind = "nowhere"').bind == ("127.0.0.1", 2)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (FileNotFoundError(2, "No such file or directory"), "No such file or directory"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (OSError("odd"), "cannot be read"),
        (UnicodeDecodeError("utf-8", b"hush4711\xff", 8, 9, "invalid"), "not UTF-8"),
        ("bind = ", "not valid TOML"),
        ('prompt_hash_key = "hush4711', "not valid TOML"),
        ("hush4711", "not valid TOML"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_mistake_with_its_name(
    content: str | Exception, part: str
) -> None:
    [mistake] = _mistakes(
        {"CONTROL_DATABASE_URL": DSN, "CONFIG": "/etc/x.toml"}, files={"/etc/x.toml": content}
    )
    assert mistake.startswith(f"{P}CONFIG: /etc/x.toml ")
    assert part in mistake


def test_names_in_the_file_are_in_lower_case() -> None:
    assert "BIND must be written in lower case" in _mistake(toml='BIND = "127.0.0.1:1"')


# -- secrets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CONTROL_DATABASE_URL", "DIRECT_DATABASE_URL", "PROMPT_HASH_KEY"])
def test_a_secret_may_stand_in_a_file_of_its_own(name: str) -> None:
    content = "secret-of-16-bytes" if name == "PROMPT_HASH_KEY" else "postgresql://other/db"
    named = {"CONTROL_DATABASE_URL": DSN, f"{name}_FILE": "/run/secret"}
    if name == "CONTROL_DATABASE_URL":
        del named[name]
    made = _parse(named, files={"/run/secret": f"{content}\n"})
    assert getattr(made, name.lower()) == Secret(content)
    # The same in the TOML file.
    toml = f'{name.lower()}_file = "/run/secret"'
    del named[f"{name}_FILE"]
    made = _parse(named, files={"/run/secret": content}, toml=toml)
    assert getattr(made, name.lower()) == Secret(content)


@pytest.mark.parametrize(
    "content",
    ["", "  \n", PermissionError(13, "no"), UnicodeDecodeError("utf-8", b"hush4711", 0, 1, "bad")],
)
def test_a_secret_s_file_that_is_empty_or_unreadable_is_a_mistake(
    content: str | Exception,
) -> None:
    mistakes = _mistakes(
        {"CONTROL_DATABASE_URL": DSN, "PROMPT_HASH_KEY_FILE": "/run/secret"},
        files={"/run/secret": content},
    )
    [mistake] = mistakes
    assert mistake.startswith(f"{P}PROMPT_HASH_KEY")


@pytest.mark.parametrize("in_file", [True, False])
def test_a_secret_given_twice_is_a_mistake(*, in_file: bool) -> None:
    toml = 'prompt_hash_key_file = "/run/secret"' if in_file else None
    named = {} if in_file else {"PROMPT_HASH_KEY_FILE": "/run/secret"}
    mistakes = _mistakes(
        {"CONTROL_DATABASE_URL": DSN, "PROMPT_HASH_KEY": "hush4711hush4711", **named},
        toml=toml,
        files={"/run/secret": "hush4711hush4711"},
    )
    assert mistakes == (f"{P}PROMPT_HASH_KEY and {P}PROMPT_HASH_KEY_FILE are both set; remove one",)


_KEY_FILE = {"CONTROL_DATABASE_URL": DSN, "CREDENTIAL_KEY_FILE": "/etc/credential.key"}


@pytest.mark.parametrize("content", ["hush4711", " hush4711\n", "x" * 4096])
def test_the_key_of_credentials_is_the_content_of_its_file(content: str) -> None:
    made = _parse(_KEY_FILE, files={"/etc/credential.key": content})
    assert made.credential_key == Secret(content.strip())
    assert made.credential_key_file == Path("/etc/credential.key")
    assert "hush4711" not in repr(made)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (FileNotFoundError(2, "No such file or directory"), "cannot be read: No such file"),
        (PermissionError(13, "Permission denied"), "cannot be read: Permission denied"),
        (UnicodeDecodeError("utf-8", b"hush4711\xff", 8, 9, "bad"), "cannot be read: not UTF-8"),
        ("", "is empty"),
        (" \n", "is empty"),
        ("hush4711" * 513, "has more than 4 KiB, so it is not a key"),
    ],
)
def test_a_key_file_that_holds_no_key_is_a_mistake_with_its_path(
    content: str | Exception, problem: str
) -> None:
    [mistake] = _mistakes(_KEY_FILE, files={"/etc/credential.key": content})
    assert mistake.startswith(f"{P}CREDENTIAL_KEY_FILE: /etc/credential.key {problem}")


@pytest.mark.parametrize("key", ["sk-hush4711", "hush4711AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGB8="])
def test_a_key_in_place_of_its_file_s_path_is_not_shown(key: str) -> None:
    mistake = _mistake({"CREDENTIAL_KEY_FILE": key})
    assert mistake.startswith(f"{P}CREDENTIAL_KEY_FILE: the file that it names cannot be read")


def test_a_key_itself_is_no_setting() -> None:
    """It stands in a file, and never in the environment, where children and /proc show it."""
    assert _mistake({"CREDENTIAL_KEY": "hush4711"}) == f"unknown setting {P}CREDENTIAL_KEY"


def test_the_direct_database_is_the_control_database_unless_given() -> None:
    assert _good().direct_database_url == Secret(DSN)
    made = _good({"DIRECT_DATABASE_URL": "postgresql://direct/db"})
    assert made.direct_database_url == Secret("postgresql://direct/db")
    assert made.control_database_url == Secret(DSN)


def test_no_repr_of_the_settings_shows_a_secret() -> None:
    made = _good(
        {
            "DIRECT_DATABASE_URL": "postgresql://u:hush4711@direct/db",
            "PROMPT_HASH_KEY": "hush4711" * 4,
        }
    )
    for text in (repr(made), str(made), f"{made}", repr([made])):
        assert "hush4711" not in text
    assert "19082" in repr(made)


def test_a_repr_of_the_settings_is_not_as_long_as_a_catalogue() -> None:
    assert "gpt-image-9" not in repr(_good(toml='[models."gpt-image-9"]'))


_CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")


@given(
    st.sampled_from(["CONTROL_DATABASE_URL", "DIRECT_DATABASE_URL", "PROMPT_HASH_KEY"]),
    st.text(_CHARACTERS, max_size=12),
    st.text(_CHARACTERS, max_size=12),
)
def test_no_mistake_shows_a_secret(name: str, before: str, after: str) -> None:
    """``_mistakes`` looks for it in everything that the error could print."""
    named = {"CONTROL_DATABASE_URL": DSN, "BIND": "nowhere", name: f"{before}hush4711{after}"}
    assert _mistakes(named)


# -- where things lie ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "variable", "fallback"),
    [("log_dir", "LOGS_DIRECTORY", "logs"), ("state_dir", "STATE_DIRECTORY", "state")],
)
def test_folders_are_the_setting_s_else_systemd_s_else_our_own(
    name: str, variable: str, fallback: str
) -> None:
    required = {"CONTROL_DATABASE_URL": DSN}
    assert getattr(_parse(required), name) == Path(fallback)
    systemd = {variable: "/var/lib/one:/var/lib/two"}
    assert getattr(_parse(required, environment=systemd), name) == Path("/var/lib/one")
    given_name = {**required, name.upper(): "/srv"}
    assert getattr(_parse(given_name, environment=systemd), name) == Path("/srv")


def test_kept_answers_lie_in_the_state_s_folder_unless_they_have_one_of_their_own() -> None:
    """The commands that read them find the same folder as the daemon."""
    systemd = {"STATE_DIRECTORY": "/var/lib/one:/var/lib/two"}
    for named, folder in [
        ({}, "/var/lib/one/calls"),
        ({"STATE_DIR": "/srv"}, "/srv/calls"),
        ({"STATE_DIR": "/srv", "KEEP_DIR": "/kept"}, "/kept"),
    ]:
        found = _parse({"CONTROL_DATABASE_URL": DSN, **named}, environment=systemd)
        assert found.keep_dir == Path(folder)
        variables = {**systemd, **{f"{P}{name}": value for name, value in named.items()}}
        assert config.parse_one(variables, _reader({}), "KEEP_DIR") == Path(folder)


def test_a_secret_where_the_path_of_its_file_belongs_is_not_repeated() -> None:
    variable = f"{P}CONTROL_DATABASE_URL_FILE"
    with pytest.raises(SettingsError) as found:
        config.parse({variable: "postgresql://me:hush@host/db"}, Path.read_text)
    assert "hush" not in str(found.value)
    assert variable in str(found.value)


def test_one_setting_alone_needs_no_other() -> None:
    read = _reader({"/dsn": DSN, "/etc/gateway.toml": 'log_dir = "/logs"\ngrant_ttl_seconds = -1'})
    given = {f"{P}CONFIG": "/etc/gateway.toml", f"{P}ADMIN_DATABASE_URL_FILE": "/dsn"}
    found = config.parse_one(given, read, "ADMIN_DATABASE_URL")
    assert found.reveal() == DSN
    assert config.parse_one(given, read, "LOG_DIR") == Path("/logs")
    assert config.parse_one({"LOGS_DIRECTORY": "/a:/b"}, read, "LOG_DIR") == Path("/a")
    assert config.parse_one({}, read, "ADMIN_DATABASE_URL") is None
    assert config.parse_one({}, read, "DRAIN_SECONDS") == 630
    with pytest.raises(SettingsError, match="IMAGE_GATEWAY_ADMIN_DATABASE_URL must be"):
        config.parse_one({f"{P}ADMIN_DATABASE_URL": "nonsense"}, read, "ADMIN_DATABASE_URL")
