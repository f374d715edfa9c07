"""A LiteLLM database with the adapter over it, and rows in LiteLLM's own tables."""

import hashlib
import secrets
from collections.abc import Mapping
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from image_gateway import sql as queries
from tests.planes.database import PlaneDatabase

KEY: Final = "LiteLLM_VerificationToken"
OLD_KEY: Final = "LiteLLM_DeprecatedVerificationToken"
TEAM: Final = "LiteLLM_TeamTable"
USER: Final = "LiteLLM_UserTable"
MEMBER: Final = "LiteLLM_TeamMembership"
ORGANIZATION: Final = "LiteLLM_OrganizationTable"
ORGANIZATION_MEMBER: Final = "LiteLLM_OrganizationMembership"
PROJECT: Final = "LiteLLM_ProjectTable"
BUDGET: Final = "LiteLLM_BudgetTable"
ALIASES: Final = "LiteLLM_ModelTable"
ACCESS_GROUP: Final = "LiteLLM_AccessGroupTable"
MODEL: Final = "LiteLLM_ProxyModelTable"
CREDENTIAL: Final = "LiteLLM_CredentialsTable"
SPEND_LOG: Final = "LiteLLM_SpendLogs"

MODELS: Final = frozenset(
    {
        "gpt-image-2.6-sunburst",
        "gpt-image-2.6-flare",
        "gpt-image-2.5-sunburst",
        "gpt-image-2.5-flare",
        "gpt-image-2",
        "chatgpt-image-latest",
        "gpt-image-1.5",
        "gpt-image-1-mini",
        "gpt-image-1",
    }
)


def hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


READER_ZONE: Final = "Pacific/Kiritimati"
"""The time zone of the reader's session: LiteLLM's times are UTC wherever one looks from."""


class LiteLlm(PlaneDatabase):
    """A database of a LiteLLM proxy.  Each ``add`` gives the id of its row.

    One writing and one reading session serve all of its tests: most look at a row or two.
    """

    def __init__(self, server_url: str) -> None:
        super().__init__(server_url, "litellm")
        self._writer: psycopg.Connection | None = None
        self._reader: psycopg.Connection[DictRow] | None = None

    def drop(self) -> None:
        for connection in (self._writer, self._reader):
            if connection is not None:
                connection.close()
        super().drop()

    def allowed(self, secret: str) -> set[str] | None:
        """The models that a key may ask for; None for any."""
        models = self.key(secret).allowed_models
        return None if models is None else set(models)

    def read(self, query: str, values: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Rows as the reader sees them."""
        if self._reader is None:
            self._reader = psycopg.connect(
                self.reader_url,
                autocommit=True,
                prepare_threshold=None,
                row_factory=dict_row,
                options=f"-c timezone={READER_ZONE}",
            )
        return self._reader.execute(query.encode(), values).fetchall()

    def _read(self, name: str, values: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        return self.read(queries.query(name), values)

    def add(self, table: str, **columns: Any) -> None:
        """A row in a table of LiteLLM's, or of the adapter's if that is named with its schema."""
        self._run(
            sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                sql.Identifier(*table.split(".")),
                sql.SQL(", ").join(map(sql.Identifier, columns)),
                sql.SQL(", ").join(map(sql.Placeholder, columns)),
            ),
            columns,
        )

    def change(self, table: str, where: Mapping[str, Any], **columns: Any) -> None:
        """Change the one row that ``where`` names."""
        self._run(
            sql.SQL("UPDATE {} SET {} WHERE {}").format(
                sql.Identifier(*table.split(".")),
                sql.SQL(", ").join(
                    sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name))
                    for name in columns
                ),
                sql.SQL(" AND ").join(
                    sql.SQL("{} = {}").format(
                        sql.Identifier(name), sql.Placeholder(f"where_{name}")
                    )
                    for name in where
                ),
            ),
            columns | {f"where_{name}": value for name, value in where.items()},
        )

    def add_token(self, **columns: Any) -> str:
        """A key of LiteLLM; gives its secret."""
        secret = f"sk-{secrets.token_hex(16)}"
        self.add(KEY, token=hashed(secret), **columns)
        return secret

    def add_budget(self, max_budget: float | None, **columns: Any) -> str:
        budget_id = f"b-{secrets.token_hex(4)}"
        self.add(BUDGET, budget_id=budget_id, max_budget=max_budget, **columns)
        return budget_id

    def add_team(self, *, aliases: Any = None, **columns: Any) -> str:
        team_id = f"t-{secrets.token_hex(4)}"
        if aliases is not None:
            columns["model_id"] = secrets.randbelow(2**30)
            self.add(ALIASES, id=columns["model_id"], aliases=Jsonb(aliases))
        self.add(TEAM, team_id=team_id, **columns)
        return team_id

    def add_user(self, **columns: Any) -> str:
        user_id = f"u-{secrets.token_hex(4)}"
        self.add(USER, user_id=user_id, **columns)
        return user_id

    def add_organization(self, max_budget: float | None, spend: float) -> str:
        organization_id = f"o-{secrets.token_hex(4)}"
        self.add(
            ORGANIZATION,
            organization_id=organization_id,
            organization_alias="",
            budget_id=self.add_budget(max_budget),
            spend=spend,
        )
        return organization_id

    def add_project(self, **columns: Any) -> str:
        project_id = f"p-{secrets.token_hex(4)}"
        self.add(PROJECT, project_id=project_id, **columns)
        return project_id

    def add_access_group(self, models: list[str], **columns: Any) -> str:
        group_id = f"g-{secrets.token_hex(4)}"
        self.add(
            ACCESS_GROUP,
            access_group_id=group_id,
            access_group_name=group_id,
            access_model_names=models,
            **columns,
        )
        return group_id

    def add_own_account(self, name: str, credential: Any, **columns: Any) -> None:
        """An account in the adapter's table."""
        self.add(
            "image_adapter.accounts",
            account_name=name,
            dialect="openai",
            credential=credential,
            **columns,
        )

    def _run(self, statement: sql.Composed, columns: Mapping[str, Any]) -> None:
        values = {
            name: Jsonb(value) if isinstance(value, dict) else value
            for name, value in columns.items()
        }
        if self._writer is None:
            self._writer = psycopg.connect(self.url, autocommit=True)
        assert self._writer.execute(statement, values).rowcount == 1
