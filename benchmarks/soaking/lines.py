"""Counts the lines in the log files of the soak test, with a strict parser."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from benchmarks.soaking.kinds import KINDS, key_of
from tests.support.lines import INDENT, TEXT_APP, parse_access

CLIENT_ID_PREFIX = "soak-"


class AccessLines(NamedTuple):
    """The numbers of lines by kind and status, of unknown kind, of torn lines, and of lines that repeat an ID."""

    counts: Counter[tuple[str, int]]
    unknown: int
    torn: int
    duplicates: int


class AppLines(NamedTuple):
    """The number of lines by message, and of lines that are neither log records nor tracebacks."""

    messages: Counter[str]
    torn: int


class LogContents(NamedTuple):
    """The contents of the log files of a service."""

    access: AccessLines
    demo: AppLines
    errors: AppLines


def pack_id(request_id: str) -> bytes:
    """Return an ID in few bytes, because a million are kept in memory."""
    return (
        request_id.encode() if request_id.startswith(CLIENT_ID_PREFIX) else bytes.fromhex(request_id.replace("-", ""))
    )


def read_access(path: Path) -> AccessLines:
    """Read the access log and count its lines."""
    kinds = {kind.key: name for name, kind in KINDS.items()}
    counts: Counter[tuple[str, int]] = Counter()
    seen: set[bytes] = set()
    torn = lines = unknown = 0
    with path.open(encoding="utf-8", newline="\n") as file:
        for text in file:
            lines += 1
            try:
                line = parse_access(text.removesuffix("\n"))
                seen.add(pack_id(line.request_id))
            except ValueError:
                torn += 1
                continue
            name = kinds.get(key_of(line.method, line.target), "")
            unknown += not name
            counts[name, line.status] += 1
    return AccessLines(counts, unknown, torn, lines - torn - len(seen))


def read_application(path: Path) -> AppLines:
    """Read an application log; an indented line belongs to the traceback of the record before."""
    messages: Counter[str] = Counter()
    torn = 0
    with path.open(encoding="utf-8", newline="\n") as file:
        for text in file:
            line = text.removesuffix("\n")
            match = TEXT_APP.fullmatch(line)
            if match is not None:
                messages[match["message"]] += 1
            elif not line.startswith(INDENT):
                torn += 1
    return AppLines(messages, torn)


def read_all(folder: Path) -> LogContents:
    """Read all files of a log folder."""
    demo, errors = (read_application(folder / name) for name in ("demo.log", "error.log"))
    return LogContents(read_access(folder / "access.log"), demo, errors)
