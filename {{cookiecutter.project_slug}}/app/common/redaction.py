r"""Mask secrets in log lines (CWE-532): `***` replaces the value after a name such as `password` in any log record.

Covers `token=…`, `"api_key": "…"`, `{'Set-Cookie': ['…']}`, `(b'authorization', b'…')`, `https://user:…@host`, and JSON
nested in JSON. Names match in any case, at the end of longer names (`accessToken`), and with `-` or nothing for `_`.
"""

import re
from typing import Any, Final

# Up to the next quote with the same number of backslashes before it, which come from JSON nested in JSON. In doubt it
# masks more: two backslashes may also come from repr() of JSON, and then the quote may belong to the secret.
_QUOTED: Final = (
    r'"(?:\\\\"|\\.|[^"\\])*'
    r"|'(?:\\\\'|\\.|[^'\\])*"
    r"""|(?P<escaped>\\+["'])(?:(?!(?P=escaped))\\+["']?|[^"\\])*"""
)
_MANY: Final = r"-----BEGIN[^-]*-----(?s:.*?)(?:-----END[^-]*-----|\Z)|[\[(][^\])]*"
# May contain brackets and backslashes, except a bracket at its end, and a backslash that escapes a quote or a newline.
_BARE: Final = (
    r"(?:(?:bearer|basic)\s+)?(?![\[({])"
    r"""(?:[^\s"'\\,;&)\]}]|\\(?![nrt"'\\])|[)\]}](?=[^\s"'\\,;&)\]}]))+"""
)
# In a header line, everything up to its end: `Bearer abc`, `a=1; b="2"`.
_REST: Final = r"""(?:(?<=authorization)|(?<=cookie))(?P<colon>\s*[:=]\s*)(?:[^"'\\\r\n]|(?<==)"[^"\\\r\n]*")+"""
_VALUE: Final = (
    r"""(?P<sign>(?P<close>\\*["'])\s*(?:[:=]|,(?=\s*b?\\*["'\[(]))\s*b?|\s*[:=]\s*)"""
    rf"(?P<value>{_MANY}|{_QUOTED}|{_BARE})"
)
# A port is not a password, even if an @ follows in the path.
_URL: Final = re.compile(r"""(?<=://)([^\s/:@"'\\]*:)(?!\d{1,5}/)[^\s"\\]+(?=@)""")
_QUOTE: Final = re.compile(r"""\\*["']|""")


class Redactor:
    """Callable that masks the secrets in a text; `configure` sets the names of secrets."""

    def __init__(self) -> None:
        self.configure(())

    def configure(self, words: tuple[str, ...]) -> None:
        """Set the names of secrets; without any, only passwords in URLs are masked."""
        names = "|".join(re.escape(word.lower()).replace(r"\-", "_").replace("_", "[-_]?") for word in words) or "(?!)"
        # Longest part of each name, searched first: most texts have none, and a case-insensitive regex takes 15 µs.
        self._parts = tuple({max(re.split("[-_]", word.lower()), key=len) for word in words})
        self._secrets = re.compile(rf"(?i)(?P<name>{names})(?![\w-])(?:{_REST}|{_VALUE})")
        self._is_name = re.compile(rf"(?is).*(?:{names})").fullmatch

    def may_contain_secret(self, text: str) -> bool:
        """Return whether the text may contain a secret; False is certain. Saves the regular expressions."""
        if not (":" in text or "=" in text or '"' in text or "'" in text):  # one of them follows each name
            return False  # most texts end here: 1,000 characters take 0.2 µs, and 5 µs below
        lower = text.lower()
        for part in self._parts:
            if part in lower:
                return True
        return "://" in text and "@" in text

    def __call__(self, text: str) -> str:
        """Return the text with `***` in place of each secret."""
        return _URL.sub(r"\1***", self._secrets.sub(_mask, text)) if self.may_contain_secret(text) else text

    def value(self, value: Any, name: str = "", without: tuple[str, ...] = ()) -> Any:  # noqa: ANN401 - of JSON
        """Return a JSON value with all secrets in it masked; `name`: its key; `without`: prefixes of keys to omit."""
        if self._is_name(name):
            return "***"
        if isinstance(value, dict):
            included = {key: item for key, item in value.items() if not str(key).startswith(without)}
            return {key: self.value(item, str(key), without) for key, item in included.items()}
        if isinstance(value, list):
            return [self.value(item, "", without) for item in value]
        return self(value) if isinstance(value, str) else value


def _mask(match: re.Match[str]) -> str:
    quote = _QUOTE.match(match["value"] or "")[0]  # type: ignore[index] # the pattern also matches an empty string
    # An unquoted value gets the quotes of its name, as in `"token": 5`.
    masked = f"{quote}***" if quote else f"{match['close'] or ''}***{match['close'] or ''}"
    return f"{match['name']}{match['colon'] or match['sign']}{masked}"


redact: Final = Redactor()
"""The redactor of this process; MASKED_LOG configures it."""
