"""W3C Trace Context, Level 2 (https://www.w3.org/TR/trace-context-2/): headers read from callers and propagated.

OpenTelemetry's own propagator accepts the first of two `traceparent` headers and drops `tracestate`s valid in Level 2.
"""

import re
from collections.abc import MutableMapping, Sequence
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, get_current_span, set_span_in_context
from opentelemetry.trace.span import TraceState

# 3.2: version, trace-id, parent-id, trace-flags. ff is invalid; 00 ends here, later versions may append "-...".
PARENT: Final = re.compile(r"(?!ff|00.{54})[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?").fullmatch
KNOWN_FLAGS: Final = TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID
# 3.3.1.3: up to 32 key=value; key and value of up to 256 characters; a value has no "," or "=", no space at its end.
MEMBER: Final = re.compile(r"([a-z0-9][a-z0-9_*/@-]{0,255})=([ -+\--<>-~]{0,255}[!-+\--<>-~])").fullmatch
MAX_MEMBERS: Final = 32
id_generator: Final = RandomIdGenerator()


class PropagatedState(TraceState):
    """The members in order, and the first of duplicate keys; the base class rejects keys such as `vendor@`."""

    def __init__(self, headers: Sequence[str]) -> None:
        super().__init__()
        members = [member for text in headers for part in text.split(",") if (member := part.strip(" \t"))]
        matches = [match for match in map(MEMBER, members) if match]
        if len(members) == len(matches) <= MAX_MEMBERS:  # one invalid member, or too many: none is propagated
            for match in matches:
                self._dict.setdefault(match[1], match[2])


def remote_context(parents: Sequence[str], states: Sequence[str]) -> Context:
    """Return the caller's context from its headers, or an empty context, which starts a new trace.

    Valid is exactly one `traceparent` header in a known format, with IDs other than zero (3.2.2, 4.3).
    """
    match = PARENT(parents[0].strip(" \t")) if len(parents) == 1 else None
    if match is None:
        return Context()
    flags = TraceFlags(int(match[3], 16) & KNOWN_FLAGS)
    parent = SpanContext(int(match[1], 16), int(match[2], 16), True, flags, PropagatedState(states) if states else None)
    return set_span_in_context(NonRecordingSpan(parent), Context()) if parent.is_valid else Context()


def child_of(parent: SpanContext) -> SpanContext:
    """Return the IDs of an unrecorded child span, with its parent's flags; a new trace is not sampled."""
    trace_id, flags = parent.trace_id, parent.trace_flags
    if not parent.is_valid:
        trace_id, flags = id_generator.generate_trace_id(), TraceFlags(TraceFlags.RANDOM_TRACE_ID)
    return SpanContext(trace_id, id_generator.generate_span_id(), False, flags, parent.trace_state)


def inject(carrier: MutableMapping[Any, Any]) -> None:
    """Write the current span as headers; an existing `traceparent` is not overwritten."""
    span = get_current_span().get_span_context()
    if span.is_valid and not any(str(name).lower() == "traceparent" for name in carrier):
        carrier["traceparent"] = f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
        if span.trace_state:
            carrier["tracestate"] = span.trace_state.to_header()
