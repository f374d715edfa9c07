"""The dialects' records agree with themselves and with what is written in SQL."""

import re

import pytest

from image_gateway import sql
from image_gateway.core.dialects import DIALECTS, Ability, Dialect
from image_gateway.core.model import Account
from tests.core.builders import account, parse


@pytest.mark.parametrize("name", DIALECTS)
def test_a_record_is_found_by_its_own_name(name: str) -> None:
    dialect = DIALECTS[name]
    assert dialect.name == name
    assert dialect.described.startswith(("a ", "an "))
    assert dialect.routes
    assert dialect.credentials
    assert all(route.lacks <= set(Ability) for route in dialect.routes)


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
def test_columns_are_of_the_accounts_view(dialect: Dialect) -> None:
    assert {*dialect.needed, *dialect.unused} <= set(Account.__dataclass_fields__)
    assert not set(dialect.needed) & dialect.unused
    assert (dialect.base_url is None) == ("base_url" in dialect.needed)


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("stream", [False, True])
def test_an_account_has_some_of_its_dialect_s_routes(dialect: Dialect, *, stream: bool) -> None:
    one = account(dialect=dialect.name, responses_model="gpt-main")
    routes = dialect.routes_of(one, parse({"stream": stream}))
    assert routes
    assert set(routes) <= set(dialect.routes)


def test_the_tables_know_the_same_dialects() -> None:
    listed = re.findall(r"CHECK \(dialect IN \((.*?)\)\)", sql.schema("standalone"))
    assert set(listed) == {", ".join(f"'{name}'" for name in DIALECTS)}


def test_route_names_are_unique() -> None:
    names = [route.name for dialect in DIALECTS.values() for route in dialect.routes]
    assert len(names) == len(set(names))
