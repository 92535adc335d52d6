"""Secrets are masked in every log line, whichever module logs it."""

import json
import logging
import time
from collections.abc import Callable
from itertools import product

import pytest

from app.common.log_handler import configure_logging
from app.common.redaction import Redactor
from app.main import Application
from app.settings import Settings
from tests.support import HEADER, ID, Logs, connect

SECRET = "hunter2"
NESTED = json.dumps({"password": f'a"{SECRET}\\"{SECRET}', "visible": 1})


@pytest.fixture
def redact() -> Redactor:
    redactor = Redactor()
    redactor.configure(Settings.model_fields["masked_log"].default)
    return redactor


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        ("password=hunter2 ok", "password=*** ok"),
        ("PASSWORD = hunter2, ok", "PASSWORD = ***, ok"),
        ("db_password: hunter2; ok", "db_password: ***; ok"),
        ("accessToken=hunter2&page=2", "accessToken=***&page=2"),
        ("x-api-key: hunter2", "x-api-key: ***"),
        ("apikey=hunter2", "apikey=***"),
        ('client_secret="hunter2 hunter2" ok', 'client_secret="***" ok'),
        ("User(name='a', password='hun\\'hunter2')", "User(name='a', password='***')"),
        ("{'password': 'hunter2', 'a': 1}", "{'password': '***', 'a': 1}"),
        ("(b'authorization', b'Bearer hunter2'), (b'host', b'h')", "(b'authorization', b'***'), (b'host', b'h')"),
        ("Authorization: Bearer hunter2.hunter2", "Authorization: ***"),
        ("Set-Cookie: sid=hunter2; b=hunter2", "Set-Cookie: ***"),
        ("token=hunter2\\nHost: h", "token=***\\nHost: h"),
        ("amqps://user:hunter2@host/db", "amqps://user:***@host/db"),
        ("smtp://:hunt@hunter2@host:25", "smtp://:***@host:25"),
        ("password='hunter2", "password='***"),
        ("{'password': ['hunter2', 'hunter2'], 'a': 1}", "{'password': '***'], 'a': 1}"),
        ("('password', ['hunter2'])", "('password', '***'])"),
        ('["password", "hunter2"]', '["password", "***"]'),
        ('{"headers":{"authorization":["Bearer hunter2"]}}', '{"headers":{"authorization":"***"]}}'),
        ('Authorization: Digest username="hunter2", response="hunter2"', "Authorization: ***"),
        ('Cookie: a="hunter2"; session=hunter2', "Cookie: ***"),
        ("Authorization: Bearer hunter2\nHost: h", "Authorization: ***\nHost: h"),
        ("token=Bearer hunter2 ok", "token=*** ok"),
        ("private_key=-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY----- ok", "private_key=*** ok"),
        ("private_key=-----BEGIN PRIVATE KEY-----\nhunter2", "private_key=***"),
        ("password=ab\\hunter2 ok", "password=*** ok"),
        ("password=p(ss)hunter2 ok", "password=*** ok"),
        ("User(password=hunter2)", "User(password=***)"),
        ("mysql://u:p/hunter2@h/db", "mysql://u:***@h/db"),
        ("mysql://u:p'hunter2@h/db", "mysql://u:***@h/db"),
        ("http://127.0.0.1:8000/a@b", "http://127.0.0.1:8000/a@b"),
        ("passwort: offen", "passwort: offen"),
        ("token_type=bearer tokens=5", "token_type=bearer tokens=5"),
        ("KeyError: 'abc'", "KeyError: 'abc'"),
        ("see https://host/a@b and 12:30", "see https://host/a@b and 12:30"),
        ("no secret here: at=all", "no secret here: at=all"),
    ],
)
def test_secrets_in_a_line_are_masked(redact: Redactor, line: str, masked: str) -> None:
    assert redact(line) == masked
    assert redact(masked) == masked


@pytest.mark.parametrize(
    "content",
    [
        {"password": SECRET, "visible": 1},
        {"password": None, "token": 5, "secret": True, "visible": 1},
        {"password": f'"{SECRET}\\"\n', "visible": 1},
        {"cookie": f"a={SECRET}; b={SECRET}", "visible": 1},
        {"authorization": {"secret": SECRET, "visible": 1}, "visible": 1},
        {"credentials": [{"api_key": SECRET}], "visible": 1},
        {"message": NESTED, "visible": 1},
        {"message": json.dumps({"inner": NESTED}), "visible": 1},
        {"message": f"Authorization: Bearer {SECRET}", "visible": 1},
        {"message": repr({"token": SECRET}), "visible": 1},
    ],
)
def test_masked_json_is_still_valid(redact: Redactor, content: dict[str, object]) -> None:
    for separators in ((",", ":"), (", ", ": ")):
        line = redact(json.dumps(content, separators=separators))
        assert SECRET not in line
        assert json.loads(line).keys() == content.keys()
        assert json.loads(line)["visible"] == 1


@pytest.mark.parametrize(
    "line",
    ["token" * 40_000, "token=" * 40_000, 'token:"' + "\\" * 200_000, "'" * 200_000 + "token:",
     "token: " + " " * 200_000, "://" * 70_000 + "@", "://a:" * 40_000 + "@", "token=[" * 40_000, "token=(a)" * 40_000,
     "private_key=-----BEGIN-" * 20_000, 'cookie="="' * 40_000],
    ids=range(11),
)  # fmt: skip
def test_masking_a_hostile_line_takes_linear_time(redact: Redactor, line: str) -> None:
    started = time.process_time()
    redact(line)
    assert time.process_time() - started < 2


def test_json_line_is_masked_by_structure(configure: Callable[..., Application], logs: Logs) -> None:
    """So quotes and backslashes in a secret cannot break it, and the whole value of a secret's name is masked."""
    configure(LOG_FORMAT="json")
    values = {
        "token": f"{SECRET}\\",
        "password": [SECRET, {"a": SECRET}],
        "deep": [{"Cookie": {"a": SECRET}}],
        "order": 7,
    }
    logging.getLogger("orders").warning("visible", extra=values)
    (line,) = logs.error
    content = json.loads(line)
    assert (content["message"], content["order"], content["deep"]) == ("visible", 7, [{"Cookie": "***"}])
    assert (content["token"], content["password"]) == ("***", "***")
    assert SECRET not in line


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("request_id", [ID, "authorization=1", "cookie=12345", "password=a/b@c"])
def test_secrets_are_masked_but_not_an_id_that_looks_like_one(
    request_id: str, log_format: str, configure: Callable[..., Application], logs: Logs
) -> None:
    app, log = configure(LOG_FORMAT=log_format), logging.getLogger("orders")

    @app.get("/leak")
    def leak() -> None:
        log.warning("Wrong password for user admin, token: %s", SECRET)
        log.warning("login with %s", {"password": SECRET}, extra={"headers": {"cookie": SECRET}})
        where = f"https://user:{SECRET}@host?token={SECRET}"
        raise RuntimeError(where)

    response = connect(app).get("/leak", headers={HEADER: request_id})
    assert (response.status_code, response.headers[HEADER]) == (500, request_id)
    assert sum(request_id in line for line in logs.error) == 3
    text = "\n".join(logs.error)
    assert text.count("***") == (5 if log_format == "json" else 4)
    assert "Wrong password for user admin, token: ***" in text
    assert "login with {'password': '***'}" in text
    assert "RuntimeError: https://user:***@host?token=***" in text
    assert SECRET not in text


def test_masked_log_sets_the_names_of_secrets(configure: Callable[..., Application], logs: Logs) -> None:
    configure(MASKED_LOG="iban, pin-code")
    logging.getLogger("orders").warning("IBAN=DE12 pin_code=1234 password=shown")
    assert logs.error[-1].endswith(" IBAN=*** pin_code=*** password=shown")


@pytest.mark.usefixtures("app")  # sets up logging
def test_log_level_and_log_levels_apply_after_logging_is_set_up(logs: Logs) -> None:
    configure_logging(Settings(log_level="WARNING", log_levels=("orders=debug", "orders.noisy=ERROR")))
    for name, level in product(("orders", "orders.deep", "orders.noisy", "others"), (10, 20, 30)):
        logging.getLogger(name).log(level, "%s at %d", name, level)
    logged = [("orders", 10), ("orders", 20), ("orders", 30), ("orders.deep", 10), ("orders.deep", 20)]
    logged += [("orders.deep", 30), ("others", 30)]
    assert [line.partition("[-] ")[2] for line in logs.error] == [f"{name} at {level}" for name, level in logged]
