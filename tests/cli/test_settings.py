from __future__ import annotations

import pytest

from services.settings import SETTINGS, Settings, SettingsError, load_settings, shown_value, unknown_variables

SECRET = "PRIVATE+KEY+example.com/acme+a020c344+AQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"


def test_precedence_is_flag_environment_file_default(place):
    (place / "stockledger.toml").write_text('store = "sqlite:///file.db"\nprincipal = "file"\napprovers = ["carol", "dave"]\n')
    environment = {"STOCKLEDGER_STORE": "sqlite:///environment.db", "STOCKLEDGER_PRINCIPAL": "environment", "STOCKLEDGER_ORIGIN": ""}
    settings = load_settings({"store": "sqlite:///flag.db", "principal": None, "unrelated": 1}, environment)
    assert (settings.store, settings.sources["store"]) == ("sqlite:///flag.db", "flag --store")
    assert (settings.principal, settings.sources["principal"]) == ("environment", "environment STOCKLEDGER_PRINCIPAL")
    assert (settings.approvers, settings.sources["approvers"]) == (("carol", "dave"), "file stockledger.toml")
    assert (settings.origin, settings.sources["origin"]) == ("", "default")


def test_defaults_need_nothing():
    assert load_settings({}, {}) == Settings(sources=dict.fromkeys(SETTINGS, "default"))


def test_lists_and_numbers_come_from_the_environment_too():
    settings = load_settings({}, {"STOCKLEDGER_APPROVERS": "carol, dave", "STOCKLEDGER_REQUEST_WINDOW_COUNT": "5000"})
    assert (settings.approvers, settings.request_window_count) == (("carol", "dave"), 5000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('stor = "x"', "stockledger.toml sets stor, which is not a setting (did you mean store?)"),
        ("zzz = 1", "stockledger.toml sets zzz, which is not a setting"),
        ("store = 5", "store of stockledger.toml is of type int, it must be a text"),
        ('store = ["postgresql://u:hunter2@h/d"]', "store of stockledger.toml is of type list, it must be a text"),
        ('request_window_count = "many"', "request_window_count of stockledger.toml is 'many', it must be a whole number, 1 to 1000000000"),
        ("request_window_count = true", "request_window_count of stockledger.toml is True, it must be a whole number, 1 to 1000000000"),
        ("approvers = [1]", "approvers of stockledger.toml is [1], it must be a list of texts"),
        ("store = ", "stockledger.toml is not TOML"),
        (f"request_window_count = {'9' * 20}", f"request_window_count of stockledger.toml is {'9' * 20}, it must be a whole number, 1 to"),
        (f"request_window_count = {'9' * 5000}", "stockledger.toml is not TOML"),
        (f"approvers = {'[' * 100_000}", "stockledger.toml is not TOML"),
    ],
)
def test_a_file_that_is_not_understood_is_refused_by_name(place, content, message):
    (place / "stockledger.toml").write_text(content)
    with pytest.raises(SettingsError) as caught:
        load_settings({}, {})
    assert str(caught.value).startswith(message)


NUMBERS = [name for name, field in SETTINGS.items() if type(field.default) is int]
NOT_ZERO = [
    *("request_window_seconds", "request_window_count", "principal_requests_burst", "stream_unanswered_max", "stream_report_seconds"),
    *("stop_seconds", "reader_threads", "checkpoint_seconds", "chain_poll_ms", "chain_reconcile_seconds"),
]
"""Of these a 0 would be a busy loop, a crash, or another number; of all others it is said what it means."""


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_has_a_least_and_a_most_and_a_zero_says_what_it_means(run, name):
    bounds = SETTINGS[name].metadata
    least, most = bounds["least"], bounds["most"]
    assert (least == 0) == bool(bounds["zero"]) == (name not in NOT_ZERO)
    for number in (least, most):
        settings = load_settings({name: str(number)}, {})
        holder = next(part for part in (settings, settings.server, settings.worker) if hasattr(part, name))
        assert getattr(holder, name) == number
    flag = f"--{name.replace('_', '-')}"
    for wrong in (least - 1, most + 1, "9" * 5000, "1e3", "\N{SUPERSCRIPT TWO}"):
        with pytest.raises(SettingsError) as caught:
            load_settings({name: str(wrong)}, {})
        shown = str(caught.value).replace("'", "")
        assert shown == f"{name} of {flag} is {wrong}, it must be a whole number, {least} to {most}"


def test_config_and_help_tell_what_a_number_may_be(run):
    for text in (run("config").out, " ".join(run("serve", "--help").out.split())):
        assert "reads at once; 1 to 256" in text
        assert "requests at once, of all principals; 0 to 1000000000, 0: no limit" in text


def test_a_named_file_must_be_there():
    with pytest.raises(SettingsError, match=r"other\.toml cannot be read: No such file"):
        load_settings({}, {}, "other.toml")


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("signing_key", SECRET, "PRIVATE+KEY+example.com/acme+a020c344+(hidden)"),
        ("signing_key", "checkpoint.key", "checkpoint.key"),
        ("store", "postgresql://ledger:hunter2@db/books", "postgresql://ledger:***@db/books"),
        ("store", "postgresql://db/books?password=hunter2&ledger=a", "postgresql://db/books?password=***&ledger=a"),
        ("store", "password=hunter2", "password=***"),
        ("store", "sqlite:///books.db", "sqlite:///books.db"),
        ("approvers", ("carol", "dave"), "carol, dave"),
        ("request_window_count", 5, "5"),
    ],
)
def test_secrets_are_hidden(name, value, shown):
    assert shown_value(Settings(**{name: value}), name) == shown


def test_a_variable_that_is_no_setting_is_told():
    assert unknown_variables(["STOCKLEDGER_STOR", "STOCKLEDGER_STORE", "PATH"]) == [
        "STOCKLEDGER_STOR is not a setting (did you mean STOCKLEDGER_STORE?)"
    ]


def test_config_shows_what_is_in_force_and_from_where(run, place, monkeypatch):
    (place / "mine.toml").write_text('principal = "alice"\n')
    monkeypatch.setenv("STOCKLEDGER_SIGNING_KEY", SECRET)
    monkeypatch.setenv("STOCKLEDGER_APROVERS", "carol")
    done = run("config", "--config", "mine.toml", "--store", "sqlite:///b.db", "--json")
    assert done.code == 0
    assert done.json["principal"] == {"value": "alice", "source": "file mine.toml"}
    assert done.json["store"] == {"value": "sqlite:///b.db", "source": "flag --store"}
    assert done.json["signing_key"]["source"] == "environment STOCKLEDGER_SIGNING_KEY"
    assert SECRET[-20:] not in done.out
    assert "did you mean STOCKLEDGER_APPROVERS?" in done.err
    assert list(done.json) == list(SETTINGS)


def test_config_for_people(run):
    done = run("config")
    assert done.lines[0].split() == ["setting", "value", "from", "meaning"]
    assert "sqlite:///stockledger.db  default" in done.out


@pytest.mark.parametrize("command", ["config", "snapshot", "verify", "show", "serve"])
@pytest.mark.parametrize(
    "url", ["postgresql://u:hunter2@127.0.0.1:1/d?ledger=acme", "postgresql://u@127.0.0.1:1/d?ledger=acme&password=hunter2"]
)
def test_no_command_tells_the_password_of_its_store(run, command, url):
    more = ["log"] if command == "show" else ["--json"] if command != "serve" else []
    done = run(command, *more, "--store", url)
    assert "hunter2" not in done.out + done.err
    assert "127.0.0.1:1/d" in done.out + done.err
