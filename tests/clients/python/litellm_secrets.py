"""LiteLLM's own encryption of credentials, for what the gateway must open.

Reads {key, texts, values} as JSON from stdin; writes {older, newer, opened}: the texts in both
forms, and what LiteLLM makes of the values.
"""

import json
import sys

from litellm.proxy.common_utils import encrypt_decrypt_utils as own

asked = json.load(sys.stdin)
key = asked["key"]
json.dump(
    {
        "older": [own.encrypt_value_helper(text, key) for text in asked["texts"]],
        # Which form is written is a setting of LiteLLM's server, which is not installed.
        "newer": [own._encrypt_aes_gcm(text, key) for text in asked["texts"]],
        "opened": [own.decrypt_if_encrypted_with(value, key) for value in asked["values"]],
    },
    sys.stdout,
)
