"""A gunicorn worker class whose access log has the request ID and the duration."""

from copy import copy
from logging import LogRecord
from typing import Any

from uvicorn.logging import AccessFormatter
from uvicorn_worker import UvicornWorker

from design_2020.request_context import current_request_id, current_request_time

ACCESS_LOG_FORMAT = (
    '[%(asctime)s] %(request_id)s %(status_code)s %(request_time)ss %(client_addr)s - "%(request_line)s"'
)


class RequestAccessFormatter(AccessFormatter):
    """Adds the request ID and the duration to uvicorn's access log record."""

    def get_status_code(self, status_code: int) -> str:
        """Return the status code without its reason phrase."""
        return str(status_code)

    def formatMessage(self, record: LogRecord) -> str:  # noqa: N802
        """Format the access log line."""
        extended = copy(record)
        extended.request_id = current_request_id()
        extended.request_time = current_request_time()
        return super().formatMessage(extended)


class RequestUvicornWorker(UvicornWorker):
    """Use it with `--worker-class design_2020.workers.RequestUvicornWorker`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - gunicorn's
        super().__init__(*args, **kwargs)
        for handler in self.log.access_log.handlers:
            handler.setFormatter(RequestAccessFormatter(ACCESS_LOG_FORMAT, use_colors=False))
