"""What LiteLLM itself encrypts opens in the gateway, and what the gateway's tests open is its."""

import base64
import json
import secrets
import subprocess

import pytest

from image_gateway.core.encrypted import CannotOpenError, Keyring
from image_gateway.core.model import Secret
from tests.core.test_encrypted import BOX, GCM, SALT
from tests.parts.clients import PYTHON, ROOT, environment

pytestmark = pytest.mark.slow


def test_both_forms_of_litellm_s_own_encryption_open() -> None:
    texts = ["", "sk-1234", "ключ é 🗝", '{"api_key": "x"}', "x" * 10_000, secrets.token_hex(40)]
    other = Keyring(Secret("sk-other"))
    values = [BOX, BOX.replace("-", "+").replace("_", "/"), GCM, "*"]
    done = subprocess.run(
        [PYTHON, "-m", "tests.clients.python.litellm_secrets"],
        cwd=ROOT,
        env=environment(),
        input=json.dumps({"key": SALT, "texts": texts, "values": values}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["opened"] == ["upstream-key-1", "upstream-key-1", "upstream-key-2", None]
    assert all(value.startswith("v2:gcm:") for value in said["newer"])
    assert all(base64.urlsafe_b64decode(value) for value in said["older"])
    for value, text in zip(said["older"] + said["newer"], texts * 2, strict=True):
        sealed = {"scheme": "litellm", "value": value}
        assert Keyring(Secret(SALT)).open(sealed) == text
        with pytest.raises(CannotOpenError):
            other.open(sealed)
