"""W3C Trace Context, Level 2 (https://www.w3.org/TR/trace-context-2/): what is taken over from a caller and passed on.

OpenTelemetry's own propagator takes the first of two `traceparent`s, and drops a `tracestate` that Level 2 lets pass.
"""

import re
from collections.abc import MutableMapping, Sequence
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, get_current_span, set_span_in_context
from opentelemetry.trace.span import TraceState

# 3.2: version, trace-id, parent-id, trace-flags. ff is no version; 00 ends there, a later one may go on after a hyphen.
PARENT: Final = re.compile(r"(?!ff|00.{54})[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?").fullmatch
KNOWN_FLAGS: Final = TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID
# 3.3.1.3: up to 32 of key=value, each of up to 256 characters; a value has neither "," nor "=", and ends in no space.
MEMBER: Final = re.compile(r"([a-z0-9][a-z0-9_*/@-]{0,255})=([ -+\--<>-~]{0,255}[!-+\--<>-~])").fullmatch
MOST_MEMBERS: Final = 32
ids: Final = RandomIdGenerator()


class PassedOn(TraceState):
    """The members in their order, the first of equal keys; the base class refuses keys such as `vendor@`."""

    def __init__(self, headers: Sequence[str]) -> None:
        super().__init__()
        members = [member for text in headers for part in text.split(",") if (member := part.strip(" \t"))]
        found = [match for match in map(MEMBER, members) if match]
        if len(members) == len(found) <= MOST_MEMBERS:  # one that is not valid, or too many: none is passed on
            for match in found:
                self._dict.setdefault(match[1], match[2])


def remote_context(parents: Sequence[str], states: Sequence[str]) -> Context:
    """Return the context of the caller from its headers, or an empty one, so that a new trace begins.

    There must be exactly one `traceparent`, of a form that is known, with IDs that are not zero (3.2.2, 4.3).
    """
    found = PARENT(parents[0].strip(" \t")) if len(parents) == 1 else None
    if found is None:
        return Context()
    flags = TraceFlags(int(found[3], 16) & KNOWN_FLAGS)
    parent = SpanContext(int(found[1], 16), int(found[2], 16), True, flags, PassedOn(states) if states else None)
    return set_span_in_context(NonRecordingSpan(parent), Context()) if parent.is_valid else Context()


def child_of(parent: SpanContext) -> SpanContext:
    """Return the IDs of a span that is not recorded: the flags stay, and a new trace is not sampled."""
    trace_id, flags = parent.trace_id, parent.trace_flags
    if not parent.is_valid:
        trace_id, flags = ids.generate_trace_id(), TraceFlags(TraceFlags.RANDOM_TRACE_ID)
    return SpanContext(trace_id, ids.generate_span_id(), False, flags, parent.trace_state)


def inject(carrier: MutableMapping[Any, Any]) -> None:
    """Write the current span into what travels; what stands there already stays."""
    span = get_current_span().get_span_context()
    if span.is_valid and not any(str(name).lower() == "traceparent" for name in carrier):
        carrier["traceparent"] = f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
        if span.trace_state:
            carrier["tracestate"] = span.trace_state.to_header()
