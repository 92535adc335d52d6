r"""Keeps secrets out of lines (CWE-532): what stands after a name such as `password` becomes `***`, whatever wrote it.

`token=…`, `"api_key": "…"`, `{'Set-Cookie': ['…']}`, `(b'authorization', b'…')`, `https://user:…@host`, also in JSON
within JSON. A name counts as well where it ends a longer one (`accessToken`), in any case, and `_` stands for `-` too.
"""

import re
from typing import Any, Final

# From the quote on, up to where it stands again with as many backslashes before it: those are of JSON within JSON.
# Rather too much than too little: after two backslashes it may be Python that shows JSON, and the quote a secret's.
_QUOTED: Final = (
    r'"(?:\\\\"|\\.|[^"\\])*'
    r"|'(?:\\\\'|\\.|[^'\\])*"
    r"""|(?P<escaped>\\+["'])(?:(?!(?P=escaped))\\+["']?|[^"\\])*"""
)
_MANY: Final = r"-----BEGIN[^-]*-----(?s:.*?)(?:-----END[^-]*-----|\Z)|[\[(][^\])]*"
# A bracket or a backslash may be a part of it; what ends the text around it, or begins a new line of it, is none.
_BARE: Final = (
    r"(?:(?:bearer|basic)\s+)?(?![\[({])"
    r"""(?:[^\s"'\\,;&)\]}]|\\(?![nrt"'\\])|[)\]}](?=[^\s"'\\,;&)\]}]))+"""
)
# In a header's line everything up to its end: `Bearer abc`, `a=1; b="2"`.
_REST: Final = r"""(?:(?<=authorization)|(?<=cookie))(?P<colon>\s*[:=]\s*)(?:[^"'\\\r\n]|(?<==)"[^"\\\r\n]*")+"""
_VALUE: Final = (
    r"""(?P<sign>(?P<close>\\*["'])\s*(?:[:=]|,(?=\s*b?\\*["'\[(]))\s*b?|\s*[:=]\s*)"""
    rf"(?P<value>{_MANY}|{_QUOTED}|{_BARE})"
)
# A port is no password, although a path with an @ may follow it.
_URL: Final = re.compile(r"""(?<=://)([^\s/:@"'\\]*:)(?!\d{1,5}/)[^\s"\\]+(?=@)""")
_QUOTE: Final = re.compile(r"""\\*["']|""")


class Redactor:
    """A function of a text that returns it without secrets; `configure` gives it their names."""

    def __init__(self) -> None:
        self.configure(())

    def configure(self, words: tuple[str, ...]) -> None:
        """Take over the names; without any, only passwords in URLs are replaced."""
        names = "|".join(re.escape(word.lower()).replace(r"\-", "_").replace("_", "[-_]?") for word in words) or "(?!)"
        # A part of each, to look for first: most texts have none, and a search without regard to case takes 15 µs.
        self._parts = tuple({max(re.split("[-_]", word.lower()), key=len) for word in words})
        self._secrets = re.compile(rf"(?i)(?P<name>{names})(?![\w-])(?:{_REST}|{_VALUE})")
        self._is_name = re.compile(rf"(?is).*(?:{names})").fullmatch

    def suspects(self, text: str) -> bool:
        """Tell whether the text may hold a secret; false: it holds none."""
        if not (":" in text or "=" in text or '"' in text or "'" in text):  # of which one stands behind each name
            return False  # as most texts: 1,000 characters take 0.2 µs so, and 5 below
        lower = text.lower()
        for part in self._parts:
            if part in lower:
                return True
        return "://" in text and "@" in text

    def __call__(self, text: str) -> str:
        """Return the text with `***` in the place of each secret."""
        return _URL.sub(r"\1***", self._secrets.sub(_mask, text)) if self.suspects(text) else text

    def value(self, value: Any, name: str = "", without: tuple[str, ...] = ()) -> Any:  # noqa: ANN401 - of JSON
        """Return a named value with `***` for each secret, in whatever depth; leave out keys that begin `without`."""
        if self._is_name(name):
            return "***"
        if isinstance(value, dict):
            kept = {key: one for key, one in value.items() if not str(key).startswith(without)}
            return {key: self.value(one, str(key), without) for key, one in kept.items()}
        if isinstance(value, list):
            return [self.value(one, "", without) for one in value]
        return self(value) if isinstance(value, str) else value


def _mask(match: re.Match[str]) -> str:
    quote = _QUOTE.match(match["value"] or "")[0]  # type: ignore[index] # it matches nothing as well
    # What had no quotes gets those of its name: `"token": 5`.
    masked = f"{quote}***" if quote else f"{match['close'] or ''}***{match['close'] or ''}"
    return f"{match['name']}{match['colon'] or match['sign']}{masked}"


redact: Final = Redactor()
"""The service's own; MASKED_LOG names what it replaces."""
