"""Credentials that a control plane keeps encrypted: what opens, what does not, and what shows."""

import base64
import hashlib
import traceback
from collections.abc import Callable

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from nacl.secret import SecretBox

from image_gateway.core import encrypted
from image_gateway.core.encrypted import LONGEST, MOST_OPENED, CannotOpenError, Keyring
from image_gateway.core.model import Credential, Proxy, Secret
from image_gateway.core.rows import RowError, account_from_row
from tests.core.builders import account_row

FERNET_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
FERNET = (
    "gAAAAABqsTuAZGVmZ2hpamtsbW5vcHFycz9dTu4LkOisgxZj5gf2X_E3ZflpplA36Ikg21rLZ86Zzai0vy4Ie24Rip16"
    "Sl_xHWbbIs0j2QEwKyQVL_nEv6k="
)
FERNET_PASSWORD = (
    "gAAAAABqsTuAPD0-P0BBQkNERUZHSElKS4MhGKzgHyzvtMW7PDcPVe2Y9OQsmwxuaE5bbjXkDK1L2NAMMgxTfs15fPUc"
    "Zf56Qw=="
)
SALT = "sk-throwaway-salt-1234"
BOX = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX8WhGI1QcbJb82FcfmBG_og0ecMJKjP35BEn-gbri"
GCM = "v2:gcm:AAECAwQFBgcICQoL-ENeTX1obBkZkZIbEzPYXvkSyWECiDs5z47Lkyio"

Seal = Callable[[bytes], str]


def _keyring(key: str) -> Keyring:
    return Keyring(Secret(key))


def _sealed(scheme: object, value: object) -> dict[str, object]:
    return {"scheme": scheme, "value": value}


def _fernet(text: bytes) -> str:
    return Fernet(FERNET_KEY).encrypt(text).decode()


def _box(text: bytes) -> str:
    box = SecretBox(hashlib.sha256(SALT.encode()).digest())
    return base64.urlsafe_b64encode(box.encrypt(text, b"n" * SecretBox.NONCE_SIZE)).decode()


def _old_box(text: bytes) -> str:
    return base64.b64encode(base64.urlsafe_b64decode(_box(text))).decode()


def _gcm(text: bytes) -> str:
    key, nonce = AESGCM(hashlib.sha256(SALT.encode()).digest()), b"n" * 12
    sealed = nonce + key.encrypt(nonce, text, None)
    return f"v2:gcm:{base64.urlsafe_b64encode(sealed).decode()}"


FORMS = [
    pytest.param("fernet", FERNET_KEY, _fernet, id="fernet"),
    pytest.param("litellm", SALT, _box, id="litellm, secretbox"),
    pytest.param("litellm", SALT, _old_box, id="litellm, secretbox in base64"),
    pytest.param("litellm", SALT, _gcm, id="litellm, gcm"),
]


def _problem(keyring: Keyring, sealed: object) -> str:
    with pytest.raises(CannotOpenError) as raised:
        keyring.open(sealed)
    return str(raised.value)


# -- what opens ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "key", "value", "text"),
    [
        ("fernet", FERNET_KEY, FERNET, "plane-test-access-token"),
        ("fernet", FERNET_KEY, FERNET_PASSWORD, "proxy-pass"),
        ("litellm", SALT, BOX, "upstream-key-1"),
        ("litellm", SALT, BOX.replace("-", "+").replace("_", "/"), "upstream-key-1"),
        ("litellm", SALT, GCM, "upstream-key-2"),
    ],
)
def test_a_value_that_another_program_encrypted_opens(
    scheme: str, key: str, value: str, text: str
) -> None:
    assert _keyring(key).open(_sealed(scheme, value)) == text


@pytest.mark.parametrize(("scheme", "key", "seal"), FORMS)
@given(text=st.text(max_size=80).filter(lambda text: not text.startswith("os.environ/")))
def test_any_text_that_was_encrypted_opens_again(
    scheme: str, key: str, seal: Seal, text: str
) -> None:
    assert _keyring(key).open(_sealed(scheme, seal(text.encode()))) == text


@pytest.mark.parametrize(
    "plain", ["sk-1234", "sk-12345", f"sk-{'a' * 48}", f"sk-proj-{'a' * 156}", "sk-"]
)
def test_an_old_plain_row_of_litellm_is_used_as_it_is(plain: str) -> None:
    assert _keyring(SALT).open(_sealed("litellm", plain)) == plain


def test_what_could_be_encrypted_is_never_used_as_it_is() -> None:
    """With a wrong key it would be sent to the upstream as a credential."""
    for plain in ("4711", "Bearer x", "v2:sk-1234", "v3:gcm:abcd", ""):
        assert "does not open" in _problem(_keyring(SALT), _sealed("litellm", plain))
        assert "does not open" in _problem(_keyring(FERNET_KEY), _sealed("fernet", plain))


@pytest.mark.parametrize(
    "value", ["os.environ/KEY", _box(b"os.environ/KEY"), _gcm(b"os.environ/K")]
)
def test_a_pointer_into_litellm_s_environment_says_what_to_do(value: str) -> None:
    assert _problem(_keyring(SALT), _sealed("litellm", value)) == (
        "points to a variable of LiteLLM's environment (os.environ/...), which the gateway does "
        "not have: store the secret itself in LiteLLM"
    )


# -- what does not ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "key", "seal"), FORMS)
def test_a_wrong_key_opens_nothing(scheme: str, key: str, seal: Seal) -> None:
    other = FERNET_KEY.swapcase()
    problem = _problem(_keyring(other), _sealed(scheme, seal(b"hush4711")))
    assert problem.startswith(
        f"is encrypted with {scheme} and does not open with the key in CREDENTIAL_KEY_FILE: "
    )
    assert _keyring(key).open(_sealed(scheme, seal(b"hush4711"))) == "hush4711"


@pytest.mark.parametrize("key", [SALT, FERNET_KEY[:-1], FERNET_KEY + "=", f"{FERNET_KEY}\nx", ""])
def test_a_key_that_fernet_cannot_have_is_told(key: str) -> None:
    assert _problem(_keyring(key), _sealed("fernet", FERNET)) == (
        "is encrypted with fernet, and CREDENTIAL_KEY_FILE holds no key of fernet, which has 44 "
        "characters of base64url"
    )


@pytest.mark.parametrize(
    ("scheme", "whose"),
    [
        ("fernet", "codex-lb's key (its encryption.key)"),
        ("litellm", "LiteLLM's LITELLM_SALT_KEY, or if it has none its master key"),
    ],
)
def test_without_a_key_the_setting_is_named(scheme: str, whose: str) -> None:
    assert _problem(Keyring(None), _sealed(scheme, "any")) == (
        f"is encrypted with {scheme}: set the gateway's CREDENTIAL_KEY_FILE to a file with {whose}"
    )


@pytest.mark.parametrize(("scheme", "key", "seal"), FORMS)
@given(data=st.data())
def test_a_value_that_was_changed_never_opens_to_another_text(
    scheme: str, key: str, seal: Seal, data: st.DataObject
) -> None:
    value = seal(b"plane-test-access-token")
    at = data.draw(st.integers(0, len(value) - 1))
    changed = value[:at] + data.draw(st.characters()) + value[at + 1 :]
    try:
        text = _keyring(key).open(_sealed(scheme, changed))
    except CannotOpenError:
        return
    assert text == "plane-test-access-token"  # the last bits of base64 mean nothing


@pytest.mark.parametrize(
    "sealed",
    [
        None,
        "hush4711",
        ["hush4711"],
        {},
        {"scheme": "fernet"},
        {"value": "hush4711"},
        _sealed("fernet", None),
        _sealed("fernet", 4711),
        _sealed("fernet", b"hush4711"),
        _sealed(None, "hush4711"),
        _sealed(["fernet"], "hush4711"),
    ],
)
def test_an_encrypted_value_without_its_parts_is_told(sealed: object) -> None:
    assert _problem(_keyring(SALT), sealed) == (
        "must have as encrypted an object with the texts scheme and value"
    )


@pytest.mark.parametrize("scheme", ["", "Fernet", "hush4711", "aes"])
def test_a_scheme_that_is_not_known_is_told_with_those_that_are(scheme: str) -> None:
    assert _problem(_keyring(SALT), _sealed(scheme, "hush4711")) == (
        "is encrypted with a scheme that is not known: fernet and litellm are"
    )


@pytest.mark.parametrize(("scheme", "key", "seal"), FORMS)
def test_what_opens_to_bytes_that_are_no_text_does_not_open(
    scheme: str, key: str, seal: Seal
) -> None:
    assert "does not open" in _problem(_keyring(key), _sealed(scheme, seal(b"\xff\xfe")))


# -- bounds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "key", "seal"), [("fernet", FERNET_KEY, _fernet), ("litellm", SALT, _gcm)]
)
def test_a_value_has_at_most_64_kib(scheme: str, key: str, seal: Seal) -> None:
    text = "x" * (LONGEST * 3 // 4 - 100)
    value = seal(text.encode())
    assert LONGEST - 200 < len(value) <= LONGEST
    assert _keyring(key).open(_sealed(scheme, value)) == text
    assert _problem(_keyring(key), _sealed(scheme, "A" * (LONGEST + 1))) == (
        f"is encrypted with {scheme} and has more than 65536 characters"
    )


@pytest.mark.parametrize("key", [FERNET_KEY, FERNET_KEY.swapcase()], ids=["own", "wrong"])
def test_a_value_is_opened_once_and_its_result_remembered_also_a_failure(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The accounts are read every few seconds.  Only the library's use shows it."""
    opened = 0

    class Counted(Fernet):
        def decrypt(self, token: bytes | str, ttl: int | None = None) -> bytes:
            nonlocal opened
            opened += 1
            return super().decrypt(token, ttl)

    monkeypatch.setattr(encrypted, "Fernet", Counted)
    keyring = _keyring(key)

    def result(value: str) -> str:
        try:
            return keyring.open(_sealed("fernet", value))
        except CannotOpenError as error:
            return str(error)

    first = result(FERNET)
    assert [result(FERNET) for _ in range(3)] == [first] * 3
    assert opened == 1
    for number in range(MOST_OPENED):  # as many others: it is forgotten again
        result(f"{number}")
    assert result(FERNET) == first
    assert opened == MOST_OPENED + 2


# -- secrets ---------------------------------------------------------------------------------------

_VALUES = st.one_of(
    st.text(max_size=60),
    st.text(st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF), max_size=3),
    st.binary(max_size=90).map(lambda data: base64.urlsafe_b64encode(data).decode()),
    st.binary(max_size=90).map(lambda data: f"v2:gcm:{base64.b64encode(data).decode()}"),
    st.binary(max_size=9).map(lambda data: f"v2:gcm:{data.hex()}"),
    st.text(max_size=20).map(lambda text: f"sk-{text}"),
)


@given(
    st.sampled_from(["fernet", "litellm"]),
    st.text(max_size=30) | st.binary(min_size=32, max_size=32).map(base64.urlsafe_b64encode),
    _VALUES,
)
def test_any_value_under_any_key_opens_or_is_a_row_error_that_shows_neither(
    scheme: str, key: str | bytes, value: str
) -> None:
    key = key if isinstance(key, str) else key.decode()
    credential = {"encrypted": _sealed(scheme, f"{value}hush4711")}
    keyring = _keyring(f"{key}hush0815" if scheme == "litellm" else key)
    broken, shown = None, ""
    try:
        account_from_row(account_row(credential=credential), keyring)
    except RowError as error:
        broken = str(error)
        shown = "".join(
            line for line in traceback.format_exception(error) if not line.startswith("  File")
        )
    assert "hush" not in shown
    assert broken is None or broken.startswith("credential ")


def test_no_repr_shows_a_key_or_an_opened_text() -> None:
    keyring = _keyring(FERNET_KEY)
    keyring.open(_sealed("fernet", FERNET))
    assert repr(keyring) == "<Keyring with a key>"
    assert repr(Keyring(None)) == "<Keyring without a key>"


# -- in a row --------------------------------------------------------------------------------------

_TOKEN = Secret("plane-test-access-token")


def test_an_encrypted_access_token_stands_beside_what_is_plain() -> None:
    credential = {
        "encrypted": _sealed("fernet", FERNET),
        "account_id": "acct",
        "is_fedramp": True,
        "access_token": "old",
    }
    made = account_from_row(account_row(credential=credential), _keyring(FERNET_KEY))
    assert made.credential == Credential(_TOKEN, "access_token", "acct", is_fedramp=True)


@pytest.mark.parametrize("dialect", ["azure", "openai"])
def test_an_encrypted_token_is_the_api_key_where_there_are_api_keys(dialect: str) -> None:
    row = account_row(
        dialect=dialect, base_url="https://h/v1", credential={"encrypted": _sealed("litellm", BOX)}
    )
    made = account_from_row(row, _keyring(SALT))
    assert made.credential == Credential(Secret("upstream-key-1"), "api_key")


def test_an_encrypted_object_stands_over_what_is_plain_as_if_it_were_plain_itself() -> None:
    text = '{"tokens": {"accessToken": "tok", "account_id": "acct"}, "isFedramp": true}'
    credential = {
        "encrypted": _sealed("fernet", _fernet(text.encode())),
        "tokens": {"access_token": "old"},
        "isFedramp": False,
    }
    made = account_from_row(account_row(credential=credential), _keyring(FERNET_KEY))
    assert made.credential == Credential(Secret("tok"), "access_token", "acct", is_fedramp=True)


@pytest.mark.parametrize("text", ["4711", '"tok"', "[1]", "null", "NaN", "{", "{'a': 1}"])
def test_a_text_that_is_no_json_object_is_the_token_itself(text: str) -> None:
    credential = {"encrypted": _sealed("fernet", _fernet(text.encode()))}
    made = account_from_row(account_row(credential=credential), _keyring(FERNET_KEY))
    assert made.credential == Credential(Secret(text), "access_token")


@pytest.mark.parametrize("text", ["", "{}", '{"access_token": ""}'])
def test_an_account_whose_encrypted_credential_is_empty_has_none(text: str) -> None:
    credential = {"encrypted": _sealed("fernet", _fernet(text.encode()))}
    row = account_row(credential=credential)
    assert account_from_row(row, _keyring(FERNET_KEY)).credential is None


@pytest.mark.parametrize("text", ["hush4711\n", '{"access_token": "hush4711é"}', "é"])
def test_an_opened_token_is_held_to_what_a_plain_one_is(text: str) -> None:
    row = account_row(credential={"encrypted": _sealed("fernet", _fernet(text.encode()))})
    with pytest.raises(RowError, match="credential must be printable ASCII") as raised:
        account_from_row(row, _keyring(FERNET_KEY))
    assert "hush4711" not in str(raised.value)


def test_a_proxy_s_password_may_be_encrypted() -> None:
    row = account_row(
        proxy_url="socks5://proxy:1080",
        proxy_username="u",
        # As jsonb::text writes it.
        proxy_password=f'{{"encrypted": {{"value": "{FERNET_PASSWORD}", "scheme": "fernet"}}}}',
    )
    expected = Proxy("socks5://proxy:1080", Secret("u"), Secret("proxy-pass"))
    assert account_from_row(row, _keyring(FERNET_KEY)).proxy == expected


@pytest.mark.parametrize(
    "password", ["{", "{}", '{"a": 1}', '"encrypted"', "[1]", "4711", '{"Encrypted": {}}']
)
def test_a_password_that_looks_like_json_is_still_a_password(password: str) -> None:
    row = account_row(proxy_url="http://proxy:1", proxy_username="u", proxy_password=password)
    assert account_from_row(row).proxy == Proxy("http://proxy:1", Secret("u"), Secret(password))


def test_a_row_error_names_its_column() -> None:
    password = f'{{"encrypted": {{"scheme": "fernet", "value": "{FERNET_PASSWORD}"}}}}'
    proxy = {"proxy_url": "http://proxy:1", "proxy_password": password}
    for columns, column in (
        ({"credential": {"encrypted": _sealed("fernet", FERNET)}}, "credential"),
        ({**proxy}, "proxy_password"),
        ({**proxy, "proxy_password": '{"encrypted": 5}'}, "proxy_password"),
    ):
        for keyring in (Keyring(None), _keyring(FERNET_KEY.swapcase())):
            with pytest.raises(RowError, match=f"^{column} (?:is encrypted|must have)"):
                account_from_row(account_row(**columns), keyring)
