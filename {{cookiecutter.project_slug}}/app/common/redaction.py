r"""Keeps secrets out of lines (CWE-532): what stands after a name such as `password` becomes `***`, whatever wrote it.

`token=…`, `"api_key": "…"`, `{'Set-Cookie': '…'}`, `(b'authorization', b'…')`, `https://user:…@host`, also in JSON
within JSON. A name counts as well where it ends a longer one (`accessToken`), in any case, and `_` stands for `-` too.
"""

import re
from typing import Final

# From the quote on, up to where it stands again with as many backslashes before it: those are of JSON within JSON.
# Rather too much than too little: after two backslashes it may be Python that shows JSON, and the quote a secret's.
_QUOTED: Final = (
    r'"(?:\\\\"|\\.|[^"\\])*'
    r"|'(?:\\\\'|\\.|[^'\\])*"
    r"""|(?P<escaped>\\+["'])(?:(?!(?P=escaped))\\+["']?|[^"\\])*"""
)
_BARE: Final = r"""[^\s"'\\,;&()\[\]{}]+"""
# In a header's line everything up to its end: "Bearer abc", "a=1; b=2".
_REST: Final = r"""(?:(?<=authorization)|(?<=cookie))(?P<colon>\s*[:=]\s*)[^"'\\]+"""
_VALUE: Final = (
    r"""(?P<sign>(?P<close>\\*["'])\s*(?:[:=]|,(?=\s*b?\\*["']))\s*b?|\s*[:=]\s*)"""
    rf"(?P<value>{_QUOTED}|{_BARE})"
)
_URL: Final = re.compile(r"""(?<=://)([^\s/:@"'\\]*:)[^\s/"'\\]+(?=@)""")
_QUOTE: Final = re.compile(r"""\\*["']|""")


class Redactor:
    """A function of a line that returns it without secrets; `configure` gives it their names."""

    def __init__(self) -> None:
        self.configure(())

    def configure(self, words: tuple[str, ...]) -> None:
        """Take over the names; without any, only passwords in URLs are replaced."""
        names = "|".join(re.escape(word.lower()).replace(r"\-", "_").replace("_", "[-_]?") for word in words) or "(?!)"
        # A part of each, to look for first: most lines have none, and a search without regard to case takes 15 µs.
        self._parts = tuple({max(re.split("[-_]", word.lower()), key=len) for word in words})
        self._secrets = re.compile(rf"(?i)(?P<name>{names})(?![\w-])(?:{_REST}|{_VALUE})")

    def suspects(self, text: str) -> bool:
        """Tell whether the text may hold a secret; false: it holds none."""
        lower = text.lower()
        for part in self._parts:
            if part in lower:
                return True
        return "://" in text and "@" in text

    def __call__(self, line: str) -> str:
        """Return the line with `***` in the place of each secret."""
        return _URL.sub(r"\1***", self._secrets.sub(_mask, line)) if self.suspects(line) else line


def _mask(match: re.Match[str]) -> str:
    quote = _QUOTE.match(match["value"] or "")[0]  # type: ignore[index] # it matches nothing as well
    # What had no quotes gets those of its name, or JSON would not be JSON any more: `"token": 5`.
    masked = f"{quote}***" if quote else f"{match['close'] or ''}***{match['close'] or ''}"
    return f"{match['name']}{match['colon'] or match['sign']}{masked}"


redact: Final = Redactor()
"""The service's own; MASKED_LOG names what it replaces."""
