"""One account of each dialect, and what must not be seen of them."""

from typing import Final, Literal

from image_gateway.core.model import Account, Credential, Key, Secret

SECRETS: Final = ("token-9f8e7d6c5b4a", "acct-1a2b3c4d5e6f")


def _account(dialect: str, kind: Literal["access_token", "api_key"]) -> Account:
    token, account_id = SECRETS
    return Account(
        account_name=f"alpha-{dialect}-of-ann",
        dialect=dialect,
        status="active",
        image_enabled=True,
        image_max_concurrency=3,
        base_url="https://upstream.example/v1",
        api_version=None,
        deployments={"gpt-image-2": "drawer"},
        credential=Credential(Secret(token), kind, account_id),
        client_version=None,
        responses_model="gpt-5.6",
        codex_route="direct",
        proxy=None,
        routing_weight=1.0,
        used_percent_primary=None,
        used_percent_secondary=None,
        same_account_retries=0,
        blocked_until=None,
    )


ACCOUNTS: Final = (
    _account("codex", "access_token"),
    _account("azure", "api_key"),
    _account("openai", "api_key"),
)

KEY: Final = Key(
    key_hash="ab" * 32,
    key_id="key-1",
    key_name="one",
    status="active",
    image_enabled=True,
    group_id=None,
    group_image_enabled=True,
    quota_remaining=None,
    max_concurrency=None,
    min_start_interval_ms=None,
    allowed_models=None,
    model_map={},
    account_names=None,
    route_strategy="auto",
)
