"""The ID of a request: accepted or made where work enters, readable everywhere, stamped on every log record.

`id_policy` is the one place that decides on IDs, for requests, tasks and messages alike.
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

# UUID, ULID, 32 hex digits and W3C's trace parent pass. Not uuid.UUID(), which takes 60,000 hyphens, and not "$", which
# takes a trailing newline. Eight characters at least, since shorter ones are no use for finding anything.
_ACCEPTED = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_.+/=@-]{7,127}").fullmatch

_HARMLESS = re.compile(r"[!-~]{1,128}").fullmatch
"""What may go into a header and a line, whatever a generator, validator or transformer returns."""

_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))

log = logging.getLogger(__name__)


def current_request_id() -> str:
    """Return the current request's ID, or "-" outside of a request; never raises."""
    record = current_record.get()
    return NO_REQUEST_ID if record is None else record.request_id


def new_request_id() -> str:
    """Return a random UUID4 in its canonical text form (RFC 9562), at a third of the cost of `str(uuid.uuid4())`."""
    text = os.urandom(16).hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:]}"


def is_acceptable(value: bytes) -> bool:
    """Tell whether an incoming value may become an ID: 8 to 128 harmless characters (CWE-117)."""
    return _ACCEPTED(value) is not None


class RequestIdPolicy:
    """Which IDs are made and accepted.

    `generator`: makes one. `validator`: accepts the raw bytes of an incoming one, and should accept what the generator
    makes; None: any. `transformer`: changes the chosen one, once on its way. What they return or raise never fails a
    request: an unusable ID is replaced by a new UUID. `new()` returns a new ID.
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

    def follow(self, other: "RequestIdPolicy") -> None:
        """Use the callables of the other one from now on."""
        vars(self).update(vars(other))

    def accepts(self, value: bytes, *, is_carried: bool = False) -> bool:
        """Tell whether a value may become an ID; `is_carried`: it is one of a process that follows this policy."""
        # The transformer has changed it already, so the validator of what comes from outside does not fit.
        validator = is_acceptable if is_carried and self.transformer is not None else self.validator
        try:
            accepted = bool(value) and (validator is None or bool(validator(value)))
        except Exception:
            log.exception("The validator of the ID policy failed; the value is not accepted")
            return False
        return accepted and (not is_carried or _HARMLESS(value.decode("latin-1")) is not None)

    def choose(self, value: bytes) -> str:
        """Return the ID for an incoming value: itself, or a new one where it is not accepted."""
        accepted = self.accepts(value)
        try:
            chosen = value.decode("latin-1") if accepted else self.generator()
            if self.transformer is not None:
                chosen = self.transformer(chosen)
            if not self._is_default and not _HARMLESS(chosen):
                raise ValueError("An ID is 1 to 128 printable ASCII characters without a space.")  # noqa: TRY301
        except Exception:
            log.exception("The callables of the ID policy gave no usable ID; the work goes on with a new one")
            return new_request_id()
        return chosen


id_policy: Final = RequestIdPolicy()
"""The policy of this process. Give it your generator, validator or transformer here: every process follows."""


class RequestIdPlugin(Plugin):
    """Reads a request's ID from its header.

    `header_name`: the header that brings it in and takes it out. `trust`: whose IDs are taken over: "always",
    "proxies" or "never". `generator`, `validator`, `transformer`: those of a policy of its own; default: `id_policy`.
    `update_request_header`: the request's header shows the final ID as well.
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
        is_own = generator is not None or validator is not is_acceptable or transformer is not None
        self.policy = RequestIdPolicy(generator or new_request_id, validator, transformer) if is_own else id_policy

    def choose(self, incoming: Sequence[bytes], *, from_proxy: bool) -> str:
        """Return the ID for a request with these header values; a doubtful one is replaced, never refused."""
        if len(incoming) != 1 or not (self.trust == "always" or (self.trust == "proxies" and from_proxy)):
            return self.policy.new()
        # White space around a value is no part of it (RFC 9110, 5.5), and not every server takes it away.
        return self.policy.choose(incoming[0].strip(b" \t"))

    async def process_request(self, request: HTTPConnection) -> str:
        """Return the ID, for starlette-context's own middlewares."""
        record = current_record.get()
        if record is not None:
            return record.request_id
        return self.choose([v for k, v in request.headers.raw if k == self.raw_header_name], from_proxy=False)


logged_length: Final[list[int | None]] = [None]
"""How many characters of each ID lines show, as the end of a slice; None: all."""


def set_logged_length(length: int) -> None:
    """Decide how many characters of each ID a line shows; 0: all."""
    logged_length[0] = length or None


def logged_id(value: str) -> str:
    """Return an ID as lines show it: its first LOG_ID_LENGTH characters, or all of it."""
    return value[: logged_length[0]]


def stamp(record: logging.LogRecord) -> None:
    """Write onto a log record whose work it is about, unless that stands there already: in a task, three IDs."""
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
    """Stamps the IDs on every record; belongs on handlers, since a logger does not filter its children's."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add `request_id`, and in a task `current_id` and `parent_id`; let it pass unless an integration does not."""
        stamp(record)
        if not log_filters:
            return True
        known = vars(record)
        if "passes_filters" not in known:  # one decision for all handlers
            known["passes_filters"] = all(passes(record) for passes in log_filters.values())
        return bool(known["passes_filters"])
