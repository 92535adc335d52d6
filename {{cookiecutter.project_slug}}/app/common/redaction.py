r"""Keeps secrets out of lines (CWE-532): what stands after a name such as `password` becomes `***`, whatever wrote it.

`token=…`, `"api_key": "…"`, `{'Set-Cookie': '…'}`, `(b'authorization', b'…')`, `https://user:…@host`, also in JSON
within JSON. A name counts as well where it ends a longer one (`accessToken`), in any case, and `_` stands for `-` too.
"""

import re
from typing import Final

_QUOTED: Final = r"""(?P<quote{0}>\\*["'])(?:\\\\\\["']|(?!(?P=quote{0}))(?:\\.|[^\\]))*"""
_BARE: Final = r"""[^\s"'\\,;&()\[\]{}]+"""
# In a header's line everything up to its end: "Bearer abc", "a=1; b=2".
_REST: Final = r"""(?<=authorization)\s*[:=]\s*[^"'\\]+|(?<=cookie)\s*[:=]\s*[^"'\\]+"""
_VALUE: Final = (
    rf"""(?P<key>(?P<close>\\*["'])\s*(?:[:=]|,(?=\s*b?\\*["']))\s*b?)(?:{_QUOTED.format(1)}|{_BARE})"""
    rf"|{_REST}|\s*[:=]\s*(?:{_QUOTED.format(2)}|{_BARE})"
)
_URL: Final = re.compile(r"""(?<=://)([^\s/:@"'\\]*:)[^\s/"'\\]+(?=@)""")
_START: Final = re.compile(r"\s*[:=]\s*")


class Redactor:
    """A function of a line that returns it without secrets; `configure` gives it their names."""

    def __init__(self) -> None:
        self.configure(())

    def configure(self, words: tuple[str, ...]) -> None:
        """Take over the names; without any, only passwords in URLs are replaced."""
        names = "|".join(re.escape(word.lower()).replace(r"\-", "_").replace("_", "[-_]?") for word in words) or "(?!)"
        self._names = re.compile(names)
        self._secrets = re.compile(rf"(?i)(?:{names})(?![\w-])(?P<value>{_VALUE})")

    def __call__(self, line: str) -> str:
        """Return the line with `***` in the place of each secret; a JSON text stays one."""
        if self._names.search(line.lower()):  # most lines have none; without regard to case it takes ten times as long
            line = self._secrets.sub(_mask, line)
        return _URL.sub(r"\1***", line) if "://" in line and "@" in line else line


def _mask(match: re.Match[str]) -> str:
    name = match[0][: match.start("value") - match.start()]
    quote = match["quote1"] or match["quote2"] or match["close"] or ""
    begin = match["key"] or _START.match(match["value"])[0]  # type: ignore[index]
    return f"{name}{begin}{quote}***{'' if match['quote1'] or match['quote2'] else quote}"


redact: Final = Redactor()
"""The service's own; MASKED_LOG names what it replaces."""
