"""Request IDs: accept or generate them, return the current one, and add it to every log record.

`id_policy` decides on the IDs of requests, tasks and messages alike.
"""

import logging
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from starlette.requests import HTTPConnection
from starlette_context.plugins import Plugin

from app.common.constants import NO_REQUEST_ID, REQUEST_ID_CTX_KEY, REQUEST_ID_HEADER
from app.common.context.observers import current_fields, fields_suffix, log_fields, log_filters
from app.common.context.request_record import current_record

# Matches UUIDs, ULIDs, 32 hex digits and W3C's trace parent. Not uuid.UUID(), which accepts 60,000 hyphens; not "$",
# which accepts a trailing newline. At least eight characters, since shorter IDs are useless for searching.
_ACCEPTED = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_.+/=@-]{7,127}").fullmatch

_SAFE = re.compile(r"[!-~]{1,128}").fullmatch
"""Matches IDs that are safe in headers and log lines; applied to what custom generators and transformers return."""

_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))

log = logging.getLogger(__name__)


def current_request_id() -> str:
    """Return the ID of the current request, or "-" outside of a request; never raise."""
    record = current_record.get()
    return NO_REQUEST_ID if record is None else record.request_id


def new_request_id() -> str:
    """Return a random UUID4 in canonical form (RFC 9562), at a third of the cost of `str(uuid.uuid4())`."""
    text = os.urandom(16).hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:]}"


def is_acceptable(value: bytes) -> bool:
    """Return whether an incoming value may become an ID: 8 to 128 characters that are safe in log lines (CWE-117)."""
    return _ACCEPTED(value) is not None


class RequestIdPolicy:
    """Decides which IDs are generated and accepted.

    `generator` returns an ID. `validator` checks the raw bytes of an incoming ID, and should accept the generator's;
    None accepts any. `transformer` changes the chosen ID; consumers of tasks and messages do not apply it again. None
    of them can fail a request: if one raises or returns an invalid ID, a new one is used. `new()` returns a new ID.
    """

    def __init__(
        self,
        generator: Callable[[], str] = new_request_id,
        validator: Callable[[bytes], bool] | None = is_acceptable,
        transformer: Callable[[str], str] | None = None,
    ) -> None:
        self.generator, self.validator, self.transformer = generator, validator, transformer
        self._is_default = generator is new_request_id and validator is is_acceptable and transformer is None
        self.new: Callable[[], str] = new_request_id if self._is_default else partial(self.choose, b"")

    def copy_from(self, other: "RequestIdPolicy") -> None:
        """Replace the callables by those of `other`."""
        vars(self).update(vars(other))

    def accepts(self, value: bytes, *, is_carried: bool = False) -> bool:
        """Return whether a value may become an ID; `is_carried`: it comes from a process with the same policy."""
        # The transformer has already changed a carried ID, so the validator of incoming IDs does not apply to it.
        validator = is_acceptable if is_carried and self.transformer is not None else self.validator
        try:
            accepted = bool(value) and (validator is None or bool(validator(value)))
        except Exception:
            log.exception("The validator of the ID policy raised an exception; the incoming ID is not accepted")
            return False
        return accepted and (not is_carried or _SAFE(value.decode("latin-1")) is not None)

    def choose(self, value: bytes) -> str:
        """Return the ID for an incoming value: the value itself if it is accepted, or a new ID."""
        accepted = self.accepts(value)
        try:
            chosen = value.decode("latin-1") if accepted else self.generator()
            if self.transformer is not None:
                chosen = self.transformer(chosen)
            if not self._is_default and not _SAFE(chosen):
                raise ValueError("An ID must be 1 to 128 printable ASCII characters without a space.")  # noqa: TRY301
        except Exception:
            log.exception("The callables of the ID policy returned no valid ID; a new UUID is used")
            return new_request_id()
        return chosen


id_policy: Final = RequestIdPolicy()
"""The policy of every process. Pass your generator, validator or transformer here."""


class RequestIdPlugin(Plugin):
    """Plugin of starlette-context: reads the request ID from a header.

    `header_name`: the header of requests and responses. `trust`: whose incoming IDs are accepted: "always" (all),
    "proxies" or "never". `generator`, `validator`, `transformer`: replace `id_policy` by a policy for this plugin.
    `update_request_header`: whether the application finds the final ID in the request's header.
    """

    key = REQUEST_ID_CTX_KEY

    def __init__(
        self,
        header_name: str = REQUEST_ID_HEADER,
        *,
        trust: str = "always",
        generator: Callable[[], str] | None = None,
        validator: Callable[[bytes], bool] | None = is_acceptable,
        transformer: Callable[[str], str] | None = None,
        update_request_header: bool = True,
    ) -> None:
        self.header_name = header_name
        self.raw_header_name = header_name.lower().encode("ascii")
        self.trust = trust
        self.update_request_header = update_request_header
        is_custom = generator is not None or validator is not is_acceptable or transformer is not None
        self.policy = RequestIdPolicy(generator or new_request_id, validator, transformer) if is_custom else id_policy

    def choose(self, incoming: Sequence[bytes], *, from_proxy: bool) -> str:
        """Return the ID for a request with these header values; an invalid ID is replaced, never refused."""
        if len(incoming) != 1 or not (self.trust == "always" or (self.trust == "proxies" and from_proxy)):
            return self.policy.new()
        # Whitespace around a header value is not part of it (RFC 9110, 5.5), but not every server strips it.
        return self.policy.choose(incoming[0].strip(b" \t"))

    async def process_request(self, request: HTTPConnection) -> str:
        """Return the ID; starlette-context's own middlewares call this."""
        record = current_record.get()
        if record is not None:
            return record.request_id
        return self.choose([v for k, v in request.headers.raw if k == self.raw_header_name], from_proxy=False)


logged_length: Final[list[int | None]] = [None]
"""How many characters of each ID log lines show, as the end of a slice; None: all."""


def set_logged_length(length: int) -> None:
    """Set how many characters of each ID log lines show; 0: all."""
    logged_length[0] = length or None


def logged_id(value: str) -> str:
    """Return an ID as log lines show it: its first LOG_ID_LENGTH characters, or all of it."""
    return value[: logged_length[0]]


def stamp(record: logging.LogRecord) -> None:
    """Add the current IDs to a log record that has none: the request ID and, in a task, task ID and parent ID."""
    if hasattr(record, "request_id"):
        return
    work = current_record.get()
    record.request_id = NO_REQUEST_ID if work is None else logged_id(work.request_id)
    if work is not None and work.task_id != NO_REQUEST_ID:
        current, parent = logged_id(work.task_id), logged_id(work.parent_id)
        record.current_id, record.parent_id, record.ids_suffix = current, parent, f" [{current} {parent}]"
    if log_fields:
        fields = {key: value for key, value in current_fields().items() if not hasattr(record, key)}
        record.__dict__.update(fields, ids_suffix=getattr(record, "ids_suffix", "") + fields_suffix(fields))


class RequestIDLogFilter(logging.Filter):
    """Adds the IDs to log records. Attach it to handlers: a logger's filters do not see records of its children."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add `request_id`, and in a task `current_id` and `parent_id`; return what `log_filters` decide."""
        stamp(record)
        if not log_filters:
            return True
        attributes = vars(record)
        if "passes_filters" not in attributes:  # one decision for all handlers
            attributes["passes_filters"] = all(log_filter(record) for log_filter in log_filters.values())
        return bool(attributes["passes_filters"])
