"""Server records that repeat one of our lines are dropped; similar ones are not."""

import logging

import pytest

from app.common.context.request_record import RequestRecord, bind, unbind
from app.common.log_handler import configure_logging
from app.settings import get_settings
from tests.support import ID, Logs


@pytest.mark.parametrize(
    ("name", "is_request_error", "count"),
    [
        ("uvicorn.error", True, 0),
        ("gunicorn.error", True, 0),
        ("hypercorn.error", True, 0),
        ("uvicorn.error", False, 1),  # an error of a hook, or of a task that outlives the request
        ("app.services.demo", True, 1),
    ],
)
def test_server_traceback_of_a_failed_request_is_dropped(
    name: str, is_request_error: bool, count: int, logs: Logs
) -> None:
    configure_logging(get_settings())
    error = RuntimeError("of the request")
    record = RequestRecord(ID, {"type": "http"})
    record.failed, record.error_id = True, id(error)
    tokens = bind(record)
    logging.getLogger(name).error("It failed.", exc_info=error if is_request_error else OSError("another"))
    unbind(tokens)
    assert sum("It failed." in line for line in logs.error) == count
