"""Opens credentials that a control plane keeps encrypted.

A view gives ``{"scheme": ..., "value": ...}`` in place of a secret, and the key stays out of SQL: a
``Keyring`` holds it and opens the value.  What does not open is a ``CannotOpenError``.  The forms
are those of the programs that wrote the values: codex-lb (``fernet``) and LiteLLM (``litellm``).
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from image_gateway.core.model import Secret

LONGEST: Final = 64 * 1024
"""Characters of a value.  What it opens to is never longer."""
MOST_OPENED: Final = 4096
"""Values whose result is remembered.  The accounts are read every few seconds, and a thousand
tokens take 20 ms of the event loop."""

_FERNET_KEY: Final = re.compile(r"[A-Za-z0-9_-]{43}=")
_GCM: Final = "v2:gcm:"
_GCM_NONCE: Final = 12
_ENVIRONMENT: Final = b"os.environ/"


class CannotOpenError(ValueError):
    """An encrypted value does not open.

    The message goes on after the column's name; it names the scheme, never the value or the key.
    """


@dataclass(frozen=True, slots=True)
class _Scheme:
    """``whose`` key CREDENTIAL_KEY_FILE must hold.  ``open`` takes the key's text and the value; it
    raises ``_FAILURES``, or ``CannotOpenError`` where it knows more.
    """

    whose: str
    open: Callable[[str, str], bytes]


_FAILURES: Final = (InvalidToken, InvalidTag, CryptoError, ValueError)


def _open_fernet(key: str, value: str) -> bytes:
    """The age of a value is not looked at: codex-lb keeps one as long as its account."""
    # Fernet's own reader skips characters that are not base64, and would take a key out of them.
    if not _FERNET_KEY.fullmatch(key):
        raise CannotOpenError(
            "is encrypted with fernet, and CREDENTIAL_KEY_FILE holds no key of fernet, which has "
            "44 characters of base64url"
        )
    return Fernet(key).decrypt(value)


def _open_litellm(key: str, value: str) -> bytes:
    text = _opened_litellm(key, value)
    if text.startswith(_ENVIRONMENT):
        raise CannotOpenError(
            "points to a variable of LiteLLM's environment (os.environ/...), which the gateway "
            "does not have: store the secret itself in LiteLLM"
        )
    return text


def _opened_litellm(key: str, value: str) -> bytes:
    """Both forms of LiteLLM 1.110, ``litellm/proxy/common_utils/encrypt_decrypt_utils.py``."""
    plain = value.encode()
    if plain.startswith(_ENVIRONMENT):
        return plain
    secret = hashlib.sha256(key.encode()).digest()
    if value.startswith(_GCM):
        sealed = _base64(value.removeprefix(_GCM))
        return AESGCM(secret).decrypt(sealed[:_GCM_NONCE], sealed[_GCM_NONCE:], None)
    try:
        return SecretBox(secret).decrypt(_base64(value))
    except _FAILURES:
        # A row from before LiteLLM encrypted them; of encrypted values one in 262,144 begins so.
        if value.startswith("sk-"):
            return plain
        raise


def _base64(text: str) -> bytes:
    """The bytes of base64url or, in older rows, base64; raises ``ValueError``."""
    return base64.b64decode(text.translate(_URL_SAFE), validate=True)


_URL_SAFE: Final = str.maketrans("-_", "+/")

_SCHEMES: Final[Mapping[str, _Scheme]] = {
    "fernet": _Scheme("codex-lb's key (its encryption.key)", _open_fernet),
    "litellm": _Scheme(
        "LiteLLM's LITELLM_SALT_KEY, or if it has none its master key", _open_litellm
    ),
}


class Keyring:
    """Opens values with the text of one key; with None it opens nothing."""

    def __init__(self, key: Secret | None) -> None:
        self._result = None if key is None else lru_cache(MOST_OPENED)(partial(_result, key))

    def __repr__(self) -> str:
        return f"<Keyring {'without' if self._result is None else 'with'} a key>"

    def open(self, sealed: object) -> str:
        """What an object ``{"scheme": ..., "value": ...}`` holds; raises ``CannotOpenError``."""
        fields = sealed if isinstance(sealed, Mapping) else {}
        scheme, value = fields.get("scheme"), fields.get("value")
        if not isinstance(scheme, str) or not isinstance(value, str):
            raise CannotOpenError(
                "must have as encrypted an object with the texts scheme and value"
            )
        if scheme not in _SCHEMES:
            raise CannotOpenError(
                f"is encrypted with a scheme that is not known: {' and '.join(_SCHEMES)} are"
            )
        if self._result is None:
            raise CannotOpenError(
                f"is encrypted with {scheme}: set the gateway's CREDENTIAL_KEY_FILE to a file with "
                f"{_SCHEMES[scheme].whose}"
            )
        if len(value) > LONGEST:
            raise CannotOpenError(
                f"is encrypted with {scheme} and has more than {LONGEST} characters"
            )
        result = self._result(scheme, value)
        if result.problem is not None:
            raise CannotOpenError(result.problem)
        return result.text


@dataclass(frozen=True, slots=True)
class _Result:
    """``problem`` None: the value opened to ``text``."""

    text: str = field(repr=False)
    problem: str | None = None


def _result(key: Secret, scheme: str, value: str) -> _Result:
    """Failures are results, to be remembered, too: a wrong key fails for every account."""
    known = _SCHEMES[scheme]
    try:
        return _Result(known.open(key.reveal(), value).decode())
    except CannotOpenError as error:
        return _Result("", str(error))
    except _FAILURES:
        return _Result(
            "",
            f"is encrypted with {scheme} and does not open with the key in CREDENTIAL_KEY_FILE: "
            f"it must be {known.whose}",
        )


WITHOUT_KEY: Final = Keyring(None)
