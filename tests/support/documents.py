"""Parse the Markdown documents (code blocks, inline code), and send the demo request that they show."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from markdown_it import MarkdownIt
from markdown_it.token import Token


def documents(folder: Path) -> list[Path]:
    """Return the documents of a service, or those of the repository outside of the template's service."""
    if (folder / "cookiecutter.json").exists():
        return sorted([*folder.glob("*.md"), *folder.glob("docs/*.md")])
    return sorted(path for path in folder.rglob("*.md") if ".venv" not in path.parts)


def tokens(document: Path) -> Iterator[Token]:
    """Yield every token of a document, including inline tokens."""
    for token in MarkdownIt("commonmark").enable("table").parse(document.read_text("utf-8")):
        yield token
        yield from token.children or ()


def blocks(document: Path, language: str) -> list[str]:
    """Return the contents of the fenced code blocks of a language."""
    return [token.content for token in tokens(document) if token.type == "fence" and token.info == language]


def inline_code(document: Path) -> list[str]:
    """Return the inline code."""
    return [token.content for token in tokens(document) if token.type == "code_inline"]


def get_demo(port: int, request_id: str) -> dict[str, Any]:
    """Request the demo endpoint with an ID, check the response header, and return the body."""
    request = Request(f"http://127.0.0.1:{port}/api/demo", headers={"X-Request-ID": request_id})
    with urlopen(request, timeout=30) as response:
        assert response.headers["X-Request-ID"] == request_id
        body: dict[str, Any] = json.load(response)
        return body


def demo_responds(port: int) -> bool:
    """Whether the demo endpoint responds; some servers listen for a while before they respond."""
    try:
        return bool(get_demo(port, "does-it-respond"))
    except OSError:
        return False


def is_listening(port: int) -> bool:
    """Whether a process accepts connections at the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
