"""Passwords in URLs of stores: hidden wherever they may stand, and in everything that is told of a store."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import LedgerError
from ledger.log.postgres_sessions import parse_url
from ledger.log.store import open_log
from ledger.log.store_url import redact_url
from ledger.verify import verify_store

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:hunter2@h:5432/d?ledger=acme", "postgresql://u:***@h:5432/d?ledger=acme"),
        ("postgresql://u@h/d?password=hunter2&ledger=acme", "postgresql://u@h/d?password=***&ledger=acme"),
        ("postgresql://u@h/d?ledger=acme&sslpassword=hunter2", "postgresql://u@h/d?ledger=acme&sslpassword=***"),
        ("postgresql://u@h/d?pass%77ord=hunter2", "postgresql://u@h/d?pass%77ord=***"),
        ("postgresql://u@h/d?PASSWORD=hunter2", "postgresql://u@h/d?PASSWORD=***"),
        ("postgresql://u:hunter2@h,h2:5433/d", "postgresql://u:***@h,h2:5433/d"),
        ("postgresql://:hunter2@/d?host=/run", "postgresql://:***@/d?host=/run"),
        ("postgresql://u:a@b/hunter2?c@h/d", "postgresql://u:***@h/d"),
        ("nats://u:hunter2@h:4222?token=hunter2", "nats://u:***@h:4222?token=***"),
        ("mysql://u:hunter2@h/d", "mysql://u:***@h/d"),
        ("host=h user=u password=hunter2 dbname=d", "host=h user=u password=*** dbname=d"),
        ("password = 'hunter2 hunter2'", "password = ***"),
        ("postgresql://u@h/d?ledger=acme", "postgresql://u@h/d?ledger=acme"),
        ("postgresql://h:5432/d", "postgresql://h:5432/d"),
        ("sqlite:///books.db", "sqlite:///books.db"),
        ("sqlite:////home/a:b@c/books.db", "sqlite:////home/a:b@c/books.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("", ""),
    ],
)
def test_what_is_secret_is_hidden_and_the_rest_stays(url: str, shown: str) -> None:
    assert redact_url(url) == shown
    assert redact_url(shown) == shown


@given(before=st.text(), after=st.text(), user=st.text(alphabet="abc.%"))
def test_a_password_never_shows_whatever_is_in_it(before: str, after: str, user: str) -> None:
    assert SECRET not in redact_url(f"postgresql://{user}:{before}{SECRET}{after}@host/d?ledger=acme")


BAD_URLS = [
    f"mysql://u:{SECRET}@h/d",
    f"postgres://u:{SECRET}@h/d?ledger=acme",
    f"postgresql://u:{SECRET}@h/d",
    f"postgresql://u@h/d?password={SECRET}",
    f"postgresql://u:{SECRET}%zz@h/d?ledger=acme",
    f"postgresql://u:{SECRET}@h/d?ledger=a&ledger=b",
    f"postgresql://u:{SECRET}@h/d?unknown=1&ledger=acme",
    f"postgresql://u:{SECRET}@127.0.0.1:1/d?ledger=acme",
    f"postgresql://u@127.0.0.1:1/d?ledger=acme&password={SECRET}",
    f"host=h password={SECRET}",
]


def everything_told(error: BaseException | None) -> str:
    """Return what a traceback of an error would tell, its causes included."""
    told = ""
    while error is not None:
        told += f"{error!s} {error!r} {getattr(error, 'metadata', '')}\n"
        error = error.__cause__ or error.__context__
    return told


@pytest.mark.parametrize("url", BAD_URLS)
def test_no_refusal_of_a_store_tells_its_password(url: str) -> None:
    with pytest.raises(LedgerError) as caught:
        open_log(url)
    assert SECRET not in everything_told(caught.value)
    with pytest.raises(LedgerError) as caught:
        verify_store(url)
    assert SECRET not in everything_told(caught.value)


def test_a_parsed_url_tells_no_password() -> None:
    assert SECRET not in repr(parse_url(f"postgresql://u:{SECRET}@h/d?ledger=acme"))
