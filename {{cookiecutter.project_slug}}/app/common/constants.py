"""Constants shared by several modules: header names, context keys, log formats, limits."""

from typing import Final

REQUEST_ID_HEADER: Final = "X-Request-ID"
"""Default name of the request ID header; the setting of the same name overrides it."""

REQUEST_ID_CTX_KEY: Final = "X-Request-ID"
REQUEST_START_TIME_CTX_KEY: Final = "X-Request-Start-Time"
REQUEST_TIME_CTX_KEY: Final = "X-Request-Time"
"""Keys of `starlette_context.context`: ID (str), start (epoch seconds), duration (seconds, set at the end)."""

NO_REQUEST_ID: Final = "-"
"""Placeholder for the request ID outside of a request."""

REQUEST_ID_KEY: Final = "x-request-id"
PARENT_ID_KEY: Final = "x-parent-id"
"""Headers of tasks and messages. Not `correlation_id` or `parent_id`, to which brokers give another meaning."""

LOG_FORMAT: Final = "%(asctime)s [pid:%(process)d] %(filename)s(line:%(lineno)d) %(levelname)s %(message)s"
REQUEST_ID_LOG_FORMAT: Final = (
    "%(asctime)s [pid:%(process)d] %(filename)s(line:%(lineno)d) "
    "%(levelname)s [%(request_id)s]%(ids_suffix)s %(message)s"
)
ACCESS_LOG_FORMAT: Final = (
    "[%(asctime)s] %(request_id)s %(status_code)s %(request_time)ss "
    '%(client_addr)s - "%(request_line)s"%(flags_suffix)s'
)
"""Format of access log lines; it may use any name in `app.common.logs.access_fields.FIELDS`."""

ACCESS_LOGGER: Final = "app.access"
ERROR_LOGGER: Final = "app.error"
TASK_LOGGER: Final = "app.task"

MAX_LOGGED_TARGET: Final = 8190
MAX_LOGGED_USER_AGENT: Final = 256
"""Maximum characters of fields that the client sends; longer ones are truncated, so no client can flood the log."""
