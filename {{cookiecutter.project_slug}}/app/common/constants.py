"""The words that both ends agree on: header names, context keys, log formats, limits."""

from typing import Final

REQUEST_ID_HEADER: Final = "X-Request-ID"
"""Default name of the header that brings the ID in and takes it out; `REQUEST_ID_HEADER` changes it."""

REQUEST_ID_CTX_KEY: Final = "X-Request-ID"
REQUEST_START_TIME_CTX_KEY: Final = "X-Request-Start-Time"
REQUEST_TIME_CTX_KEY: Final = "X-Request-Time"
"""Keys of `starlette_context.context`: str; seconds since the epoch; seconds, once the response is over."""

NO_REQUEST_ID: Final = "-"
"""What stands in place of an ID outside of a request."""

REQUEST_ID_KEY: Final = "x-request-id"
PARENT_ID_KEY: Final = "x-parent-id"
"""What travels with a task or a message. Not `correlation_id` or `parent_id`, to which brokers give another meaning."""

LOG_FORMAT: Final = "%(asctime)s [pid:%(process)d] %(filename)s(line:%(lineno)d) %(levelname)s %(message)s"
REQUEST_ID_LOG_FORMAT: Final = (
    "%(asctime)s [pid:%(process)d] %(filename)s(line:%(lineno)d) "
    "%(levelname)s [%(request_id)s]%(ids_suffix)s %(message)s"
)
ACCESS_LOG_FORMAT: Final = (
    "[%(asctime)s] %(request_id)s %(status_code)s %(request_time)ss "
    '%(client_addr)s - "%(request_line)s"%(flags_suffix)s'
)
"""The access line; every name in `app.common.logs.access_fields.FIELDS` may stand in it."""

ACCESS_LOGGER: Final = "app.access"
ERROR_LOGGER: Final = "app.error"
TASK_LOGGER: Final = "app.task"

MAX_LOGGED_TARGET: Final = 8190
MAX_LOGGED_USER_AGENT: Final = 256
"""Characters of a field that comes from the client; the rest is cut off, so that nobody floods a log."""
