"""What the soak has left in the log files: each line is read strictly, and counted."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from benchmarks.soaking.kinds import KINDS, key_of
from tests.support.lines import INDENT, TEXT_APP, parse_access

GIVEN = "soak-"


class AccessLines(NamedTuple):
    """The lines of each kind and status, lines of no kind, torn lines, and IDs that came more than once."""

    counts: Counter[tuple[str, int]]
    strange: int
    torn: int
    doubled: int


class AppLines(NamedTuple):
    """How often each message stands in an application log, and lines that are neither records nor tracebacks."""

    messages: Counter[str]
    torn: int


class Written(NamedTuple):
    """What stands in the log files of a service."""

    access: AccessLines
    demo: AppLines
    errors: AppLines


def packed(request_id: str) -> bytes:
    """Give an ID in as few bytes as it can be kept in, since there are a million."""
    return request_id.encode() if request_id.startswith(GIVEN) else bytes.fromhex(request_id.replace("-", ""))


def read_access(path: Path) -> AccessLines:
    """Read the access log."""
    known = {kind.key: name for name, kind in KINDS.items()}
    counts: Counter[tuple[str, int]] = Counter()
    seen: set[bytes] = set()
    torn = lines = strange = 0
    with path.open(encoding="utf-8", newline="\n") as file:
        for text in file:
            lines += 1
            try:
                line = parse_access(text.removesuffix("\n"))
                seen.add(packed(line.request_id))
            except ValueError:
                torn += 1
                continue
            name = known.get(key_of(line.method, line.target), "")
            strange += not name
            counts[name, line.status] += 1
    return AccessLines(counts, strange, torn, lines - torn - len(seen))


def read_application(path: Path) -> AppLines:
    """Read another log; a line that is moved in belongs to the traceback of the one before."""
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


def read_all(folder: Path) -> Written:
    """Read all files of a log folder."""
    demo, errors = (read_application(folder / name) for name in ("demo.log", "error.log"))
    return Written(read_access(folder / "access.log"), demo, errors)
