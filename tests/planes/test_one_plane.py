"""One database serves one control plane: a second one does not take the first one's place."""

from collections.abc import Iterator

import psycopg
import pytest

from image_gateway import sql
from tests.planes.database import PlaneDatabase

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cliproxyapi(server_url: str) -> Iterator[PlaneDatabase]:
    """The smallest plane that is somebody's."""
    made = PlaneDatabase(server_url, "cliproxyapi")
    made.create_bare()
    made.install()
    yield made
    made.drop()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("standalone", "is cliproxyapi, and standalone would replace its views"),
        ("litellm", "lacks what this adapter reads of LiteLLM"),
        ("sub2api_notify", "the sub2api adapter is not installed here"),
        ("litellm_uninstall", "is cliproxyapi, not litellm; nothing was removed"),
    ],
)
def test_what_belongs_to_another_control_plane_is_refused_and_changes_nothing(
    cliproxyapi: PlaneDatabase, script: str, told: str
) -> None:
    before = cliproxyapi.account_rows()
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=told):
        cliproxyapi.execute(sql.schema(script))
    assert cliproxyapi.account_rows() == before
    cliproxyapi.install()


def test_a_control_plane_that_was_given_up_makes_way(cliproxyapi: PlaneDatabase) -> None:
    cliproxyapi.execute(sql.schema("cliproxyapi_uninstall"))
    cliproxyapi.execute(sql.schema("standalone"))
    assert cliproxyapi.ask("SELECT image_gateway.plane_name()") == [("standalone",)]
    cliproxyapi.execute("DROP SCHEMA image_gateway CASCADE; DROP SCHEMA image_control CASCADE")
    cliproxyapi.install()


@pytest.mark.parametrize("role", ["reader", "charger"])
def test_a_role_before_its_views_is_told_what_comes_first(server_url: str, role: str) -> None:
    empty = PlaneDatabase(server_url, "cliproxyapi")
    empty.create("")
    try:
        plane = "sub2api" if role == "charger" else None
        with pytest.raises(
            psycopg.errors.ObjectNotInPrerequisiteState, match="image-gateway schema"
        ):
            empty.execute(sql.schema(role, plane))
    finally:
        empty.drop()


def test_whoever_may_not_make_roles_can_renew_the_reader_s_rights(
    cliproxyapi: PlaneDatabase,
) -> None:
    """The owner of the views, after a migration: a superuser has made the role before."""
    cliproxyapi.execute(
        "DROP ROLE IF EXISTS plain_owner; CREATE ROLE plain_owner;"
        "GRANT ALL ON SCHEMA image_gateway TO plain_owner;"
        "ALTER VIEW image_gateway.keys OWNER TO plain_owner;"
        "ALTER VIEW image_gateway.accounts OWNER TO plain_owner;"
        "ALTER VIEW image_gateway.warnings OWNER TO plain_owner;"
        "ALTER FUNCTION image_gateway.contract_version OWNER TO plain_owner;"
        "ALTER SCHEMA image_gateway OWNER TO plain_owner"
    )
    with psycopg.connect(cliproxyapi.url, autocommit=True) as connection:
        connection.execute("SET ROLE plain_owner")
        connection.execute(sql.schema("reader").encode())
    cliproxyapi.execute("REASSIGN OWNED BY plain_owner TO postgres; DROP OWNED BY plain_owner")
    cliproxyapi.execute("DROP ROLE plain_owner")
