"""Settings: one pure parse from a mapping, which reports every mistake at once.

``IMAGE_GATEWAY_<NAME>`` in the environment wins over the same name in lower case in the TOML file
that ``IMAGE_GATEWAY_CONFIG`` names.  An unknown name is a mistake, because a misspelt limit would
not apply.  Files are read by the caller's ``read``.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from image_gateway.core.dialects import DIALECTS, Dialect, codex
from image_gateway.core.headers import Network
from image_gateway.core.model import Secret
from image_gateway.core.records.prices import Price
from image_gateway.setting_values import (
    Address,
    choice_of,
    parse_address,
    parse_base_url,
    parse_count,
    parse_database,
    parse_hash_key,
    parse_header_text,
    parse_models,
    parse_names,
    parse_networks,
    parse_origin,
    parse_origins,
    parse_path,
    parse_percent,
    parse_prices,
    parse_public_url,
    parse_seconds,
    parse_size,
    parse_text,
    parse_wait,
)

PREFIX: Final = "IMAGE_GATEWAY_"

Read = Callable[[Path], str]


class SettingsError(ValueError):
    """The settings are not valid; ``mistakes`` lists everything wrong, without a secret."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, parsed; times in seconds, sizes in bytes."""

    bind: Address
    ops_bind: Address
    control_database_url: Secret
    direct_database_url: Secret
    log_dir: Path
    state_dir: Path
    log_max_file_bytes: int
    log_max_file_seconds: float
    log_max_files: int
    prompt_hash_key: Secret | None
    credential_key_file: Path | None
    credential_key: Secret | None
    """What the file holds."""
    grant_ttl_seconds: float
    grant_max_stale_seconds: float
    start_wait_seconds: float
    drain_seconds: float
    max_request_bytes: int
    max_part_bytes: int
    max_parts: int
    memory_budget_bytes: int
    spool_budget_bytes: int
    spool_dir: Path
    body_seconds: float
    body_idle_seconds: float
    send_seconds: float
    total_seconds: float
    connect_seconds: float
    upstream_idle_seconds: float
    attempt_seconds: Mapping[str, float]
    """The longest that one attempt may take, by its account's dialect."""
    keepalive_seconds: float
    slots: Literal["shared", "process"]
    slot_wait_seconds: float
    slot_queue: int
    budget_threshold_percent: float
    default_model: str
    forward_parameters: frozenset[str]
    codex_base_url: str
    codex_client_version: str
    text_api_url: str | None
    ambient_image_tool: Literal["refuse", "strip"]
    when_client_leaves: Literal["finish", "cancel"]
    retry_guard_seconds: float
    keep_seconds: float
    keep_budget_bytes: int
    keep_dir: Path
    public_url: str | None
    """Without a slash at its end."""
    json_keepalive_seconds: float
    cors_origins: frozenset[str]
    max_connections: int
    trusted_proxies: tuple[Network, ...]
    models: Mapping[str, object] = field(repr=False)
    prices: Mapping[str, Price] = field(repr=False)
    """By model; they replace and add to the shipped ones."""

    def base_url(self, dialect: Dialect) -> str:
        """The base URL of a dialect's accounts that have none of their own; empty if none."""
        return (self.codex_base_url if dialect.name == "codex" else dialect.base_url) or ""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its name, its default as a person would write it, its purpose, its parser.

    ``default`` None: the setting is required, or the module's ``parse`` computes its default.
    ``secret``: the value may also come from a file that ``<NAME>_FILE`` names.
    """

    name: str
    default: str | None
    purpose: str
    parse: Callable[[object], Any]
    secret: bool = False
    required: bool = False


SETTINGS: Final[Sequence[Setting]] = (
    Setting(
        "BIND",
        "127.0.0.1:19082",
        "The address for image calls. Sockets passed by systemd take precedence.",
        parse_address,
    ),
    Setting(
        "OPS_BIND",
        "127.0.0.1:19083",
        "The address of `/status`, `/metrics` and `/readyz`; each instance needs its own.",
        parse_address,
    ),
    Setting(
        "CONTROL_DATABASE_URL",
        None,
        "The control plane's Postgres; the gateway only reads from it.",
        parse_database,
        secret=True,
        required=True,
    ),
    Setting(
        "DIRECT_DATABASE_URL",
        None,
        "The same database without a transaction pooler, for LISTEN and shared slots. Default: "
        "CONTROL_DATABASE_URL.",
        parse_database,
        secret=True,
    ),
    Setting(
        "ADMIN_DATABASE_URL",
        None,
        "The control plane's Postgres, with a role that may write to the gateway's own tables "
        "there; only for `control`. For `usage apply` the role `image_gateway_charger` is enough.",
        parse_database,
        secret=True,
    ),
    Setting(
        "LOG_DIR",
        None,
        "The folder for log records. Default: systemd's LOGS_DIRECTORY, else ./logs.",
        parse_path,
    ),
    Setting(
        "STATE_DIR",
        None,
        "The folder for what outlives a restart. Default: systemd's STATE_DIRECTORY, else ./state.",
        parse_path,
    ),
    Setting("LOG_MAX_FILE_BYTES", "64 MiB", "A log file is sealed at this size.", parse_size),
    Setting("LOG_MAX_FILE_SECONDS", "86400", "A log file is sealed at this age.", parse_seconds),
    Setting("LOG_MAX_FILES", "30", "How many sealed log files are kept.", parse_count),
    Setting(
        "PROMPT_HASH_KEY",
        None,
        "The key that hashes prompts in the log, and by which kept calls are found: after a change "
        "of it they are not. Default: generated once, kept in STATE_DIR.",
        parse_hash_key,
        secret=True,
    ),
    Setting(
        "CREDENTIAL_KEY_FILE",
        None,
        "The file of the key with which the control plane encrypts credentials; it is read at the "
        "start.",
        parse_path,
    ),
    Setting(
        "GRANT_TTL_SECONDS",
        "5",
        "How long keys and accounts count as fresh after they were read.",
        parse_seconds,
    ),
    Setting(
        "GRANT_MAX_STALE_SECONDS",
        "600",
        "How long keys and accounts that were read before serve calls while Postgres is down.",
        parse_seconds,
    ),
    Setting("START_WAIT_SECONDS", "30", "How long a start waits for Postgres.", parse_seconds),
    Setting("DRAIN_SECONDS", "630", "How long a stop waits for calls in flight.", parse_seconds),
    Setting("MAX_REQUEST_BYTES", "64 MiB", "The largest request body.", parse_size),
    Setting("MAX_PART_BYTES", "50 MB", "The largest picture in a multipart body.", parse_size),
    Setting("MAX_PARTS", "64", "The most parts that a multipart body may have.", parse_count),
    Setting("MEMORY_BUDGET_BYTES", "256 MiB", "Request bytes of all calls in memory.", parse_size),
    Setting("SPOOL_BUDGET_BYTES", "4 GiB", "Request bytes of all calls on disk.", parse_size),
    Setting(
        "SPOOL_DIR",
        "/var/tmp",  # noqa: S108 - files there have no name
        "The folder for bodies over 1 MiB, in unnamed files.",
        parse_path,
    ),
    Setting(
        "BODY_SECONDS", "120", "A request body must be complete within this time.", parse_seconds
    ),
    Setting("BODY_IDLE_SECONDS", "20", "The longest pause within a request body.", parse_seconds),
    Setting("SEND_SECONDS", "60", "How long a client may block its answer.", parse_seconds),
    Setting(
        "TOTAL_SECONDS",
        "570",
        "From the complete body to the upstream's headers, or to the last picture of a stream, "
        "over all attempts. Below the SDKs' 600.",
        parse_seconds,
    ),
    Setting("CONNECT_SECONDS", "10", "How long a connect to an upstream may take.", parse_seconds),
    Setting(
        "UPSTREAM_IDLE_SECONDS",
        "60",
        "The longest pause within an upstream's answer, and how long one that has begun may go "
        "on after its attempt's time.",
        parse_seconds,
    ),
    *(
        Setting(
            f"{dialect.name.upper()}_SECONDS",
            f"{dialect.attempt_seconds:g}",
            f"How long one attempt at {dialect.described} may take.",
            parse_seconds,
        )
        for dialect in DIALECTS.values()
    ),
    Setting(
        "KEEPALIVE_SECONDS",
        "15",
        "A stream that is silent for this long gets a comment.",
        parse_seconds,
    ),
    Setting(
        "SLOTS",
        "shared",
        "Whether all processes count the accounts' slots and the calls of keys and owners together "
        "(`shared`), or each process counts its own (`process`, only for a single instance).",
        choice_of("shared", "process"),
    ),
    Setting("SLOT_WAIT_SECONDS", "30", "How long a call waits for a slot; 0: no wait.", parse_wait),
    Setting("SLOT_QUEUE", "100", "How many calls may wait for a slot.", parse_count),
    Setting(
        "BUDGET_THRESHOLD_PERCENT",
        "95",
        "An account that has spent this share of its budget is used last.",
        parse_percent,
    ),
    Setting("DEFAULT_MODEL", "gpt-image-2", "The model of calls that name none.", parse_text),
    Setting(
        "FORWARD_PARAMETERS",
        "",
        "Unknown parameters that are passed on instead of refused.",
        parse_names,
    ),
    Setting(
        "CODEX_BASE_URL",
        codex.DIALECT.base_url,
        "The base URL of Codex accounts that have none of their own.",
        parse_base_url,
    ),
    Setting(
        "CODEX_CLIENT_VERSION", "0.169.0", "The client version sent to Codex.", parse_header_text
    ),
    Setting(
        "TEXT_API_URL",
        None,
        "Scheme, host and port of the text API, for calls on the Responses paths that do not ask "
        "for a picture. Without it they are refused.",
        parse_origin,
    ),
    Setting(
        "AMBIENT_IMAGE_TOOL",
        "refuse",
        "A Responses call that lists the image tool and does not choose it, of a key that may not "
        "make images: `refuse` answers 403, `strip` takes the tool out and passes the call on to "
        "TEXT_API_URL.",
        choice_of("refuse", "strip"),
    ),
    Setting(
        "WHEN_CLIENT_LEAVES",
        "finish",
        "What becomes of a call when its client leaves: `finish` goes on and keeps the answer for "
        "a retry, `cancel` ends it, for accounts that bill nothing then.",
        choice_of("finish", "cancel"),
    ),
    Setting(
        "RETRY_GUARD_SECONDS",
        "90",
        "For how long after a call with an unknown outcome the first equal call is refused, "
        "because a picture may exist; 0: never.",
        parse_wait,
    ),
    Setting(
        "KEEP_SECONDS",
        "3600",
        "How long the answer of a call is kept for retries; 0: a retry finds its call only while "
        "it runs.",
        parse_wait,
    ),
    Setting(
        "KEEP_BUDGET_BYTES",
        "4 GiB",
        "Kept answers on disk. Beyond it delivered ones are removed first, then the oldest.",
        parse_size,
    ),
    Setting(
        "KEEP_DIR",
        None,
        "The folder for kept answers; all instances on a machine share it. Default: "
        "STATE_DIR/calls.",
        parse_path,
    ),
    Setting(
        "PUBLIC_URL",
        None,
        "Where clients reach the gateway, such as https://images.example.com. With it "
        "`response_format=url` gives addresses below it, which work for KEEP_SECONDS; without it, "
        "data URLs.",
        parse_public_url,
    ),
    Setting(
        "JSON_KEEPALIVE_SECONDS",
        "0",
        "A JSON answer that is not there after this long begins with status 200 and a space, and "
        "gets another space each time; 0: off.",
        parse_wait,
    ),
    Setting(
        "CORS_ORIGINS",
        "",
        "Origins whose web pages may call the gateway, or *.",
        parse_origins,
    ),
    Setting(
        "MAX_CONNECTIONS",
        "2048",
        "How many connections of clients may be open. Beyond it the oldest without a request are "
        "closed; if all have one, new ones get 503.",
        parse_count,
    ),
    Setting(
        "TRUSTED_PROXIES",
        "127.0.0.0/8, ::1",
        "Networks whose X-Forwarded-For is trusted.",
        parse_networks,
    ),
    Setting(
        "MODELS", None, "More models, as tables in the TOML file: [models.NAME].", parse_models
    ),
    Setting(
        "PRICES",
        None,
        "Prices of models in USD for a million tokens, over the shipped ones: tables "
        "[prices.NAME] in the TOML file, or JSON.",
        parse_prices,
    ),
)
"""The table in systemd/README.md, in its order."""

_BY_NAME: Final = {setting.name: setting for setting in SETTINGS}


# -- the parse -------------------------------------------------------------------------------------


def parse(environment: Mapping[str, str], read: Read) -> Settings:
    """Settings from the environment and the TOML file that it may name.

    Raises ``SettingsError``.
    """
    mistakes: list[str] = []
    raw = _resolve_files(_read_all(environment, read, mistakes), read, mistakes)
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        value: object = raw.get(setting.name, setting.default)
        if value is None:
            if setting.required:
                mistakes.append(f"{PREFIX}{setting.name} is missing: {setting.purpose}")
            continue
        try:
            values[setting.name.lower()] = setting.parse(value)
        except ValueError as error:
            mistakes.append(f"{PREFIX}{setting.name} {error}")
    if values.get("text_api_url") is not None and _leads_to(values["text_api_url"], values["bind"]):
        mistakes.append(f"{PREFIX}TEXT_API_URL leads to the gateway itself; name the text API")
    if values.get("ambient_image_tool") == "strip" and "TEXT_API_URL" not in raw:
        mistakes.append(f"{PREFIX}AMBIENT_IMAGE_TOOL strip needs {PREFIX}TEXT_API_URL")
    if values.get("public_url") is not None and values.get("keep_seconds") == 0:
        mistakes.append(
            f"{PREFIX}PUBLIC_URL needs {PREFIX}KEEP_SECONDS above 0: addresses lead to pictures "
            "that are kept"
        )
    key_file = values.setdefault("credential_key_file", None)
    values["credential_key"] = (
        None if key_file is None else _credential_key(key_file, read, mistakes)
    )
    if mistakes:
        raise SettingsError(mistakes)
    values.pop("admin_database_url", None)  # the daemon must not be able to write
    values.setdefault("direct_database_url", values["control_database_url"])
    values["attempt_seconds"] = {name: values.pop(f"{name}_seconds") for name in DIALECTS}
    values.setdefault("prompt_hash_key", None)
    values.setdefault("text_api_url", None)
    values.setdefault("public_url", None)
    values.setdefault("models", {})
    values.setdefault("prices", {})
    for name in _FOLDERS:
        values.setdefault(name.lower(), _folder(environment, name))
    values.setdefault("keep_dir", _keep_dir(values["state_dir"]))
    return Settings(**values)


MOST_KEY_BYTES: Final = 4096
"""The keys of the planes have 44 characters or so; a longer file is another one."""


def _credential_key(path: Path, read: Read, mistakes: list[str]) -> Secret | None:
    name = f"{PREFIX}CREDENTIAL_KEY_FILE"
    try:
        key = read(path).strip()
    except (OSError, UnicodeDecodeError) as error:
        mistakes.append(f"{name}: {_shown(path)} cannot be read: {_reason(error)}")
        return None
    if not key:
        mistakes.append(f"{name}: {_shown(path)} is empty")
    elif len(key.encode()) > MOST_KEY_BYTES:
        mistakes.append(f"{name}: {_shown(path)} has more than 4 KiB, so it is not a key")
    return Secret(key)


_LOCAL: Final = frozenset({"0.0.0.0", "127.0.0.1", "::", "::1", "localhost"})  # noqa: S104 - no bind


def _leads_to(url: str, bind: Address) -> bool:
    """Whether a URL surely leads to an address that this process listens on: calls would circle."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    hosts = {parts.hostname, bind[0]}
    return port == bind[1] and (len(hosts) == 1 or hosts <= _LOCAL)


def parse_one(environment: Mapping[str, str], read: Read, name: str) -> Any:
    """The value of one setting; None if it is unset and has no default.

    The values of other settings are not checked.  Raises ``SettingsError``.
    """
    mistakes: list[str] = []
    values = _read_all(environment, read, mistakes)
    own = {key: values[key] for key in (name, f"{name}_FILE") if key in values}
    setting = _BY_NAME[name]
    value: object = _resolve_files(own, read, mistakes).get(name, setting.default)
    result = None
    if value is not None:
        try:
            result = setting.parse(value)
        except ValueError as error:
            mistakes.append(f"{PREFIX}{name} {error}")
    if mistakes:
        raise SettingsError(mistakes)
    if result is None and name == "KEEP_DIR":
        return _keep_dir(parse_one(environment, read, "STATE_DIR"))
    return _folder(environment, name) if result is None and name in _FOLDERS else result


_FOLDERS: Final = {"LOG_DIR": ("LOGS_DIRECTORY", "logs"), "STATE_DIR": ("STATE_DIRECTORY", "state")}


def _keep_dir(state_dir: Path) -> Path:
    return state_dir / "calls"


def _folder(environment: Mapping[str, str], name: str) -> Path:
    variable, fallback = _FOLDERS[name]
    # systemd may name several folders, separated by colons; the first is the unit's own.
    return Path(environment.get(variable, fallback).split(":")[0])


def _read_all(environment: Mapping[str, str], read: Read, mistakes: list[str]) -> dict[str, object]:
    """The values of the file and of the environment, which wins; names in upper case."""
    return _from_file(environment, read, mistakes) | {
        name.removeprefix(PREFIX): value
        for name, value in environment.items()
        if name.startswith(PREFIX) and name != f"{PREFIX}CONFIG"
    }


def _from_file(
    environment: Mapping[str, str], read: Read, mistakes: list[str]
) -> dict[str, object]:
    name = environment.get(f"{PREFIX}CONFIG")
    if name is None:
        return {}
    try:
        document = tomllib.loads(read(Path(name)))
    except (OSError, UnicodeDecodeError) as error:
        mistakes.append(f"{PREFIX}CONFIG: {name} cannot be read: {_reason(error)}")
        return {}
    except tomllib.TOMLDecodeError as error:
        mistakes.append(f"{PREFIX}CONFIG: {name} is not valid TOML: {error}")
        return {}
    mistakes += [
        f"{name}: {key} must be written in lower case" for key in document if key != key.lower()
    ]
    return {key.upper(): value for key, value in document.items()}


def _resolve_files(
    values: Mapping[str, object], read: Read, mistakes: list[str]
) -> dict[str, object]:
    """The values with each ``<NAME>_FILE`` replaced by ``<NAME>`` and the content of the file."""
    raw: dict[str, object] = {}
    for name, value in values.items():
        plain = name.removesuffix("_FILE")
        if name in _BY_NAME:
            raw[name] = value
        elif plain in _BY_NAME and _BY_NAME[plain].secret:
            if plain in values:
                mistakes.append(f"{PREFIX}{plain} and {PREFIX}{name} are both set; remove one")
            try:
                raw[plain] = read(Path(str(value)))
            except (OSError, UnicodeDecodeError) as error:
                mistakes.append(f"{PREFIX}{name}: {_shown(value)} cannot be read: {_reason(error)}")
        else:
            mistakes.append(f"unknown setting {PREFIX}{name}")
    return raw


def _shown(path: object) -> str:
    """The path of a secret's file, unless an operator may have set the secret itself."""
    text = str(path)
    looks_secret = "@" in text or "=" in text or text.startswith("sk-")
    return "the file that it names" if looks_secret else text


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or "unknown reason" if isinstance(error, OSError) else "not UTF-8"
