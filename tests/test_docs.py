"""What the documents say of files, options and sizes, and whether their pictures can be drawn."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from scripts.combinations import options
from scripts.snapshot import ROOT, copy_repository
from scripts.tables import BETWEEN, options_table, with_options
from tests.support.baking import TEMPLATE_DIR, bake, must, run

ONE_SCREEN = 80
# How many lines an option may add to the README of a service that has it, on the average.
LINES_OF_OPTION = 4
PICTURES = {"flowchart", "sequenceDiagram", "stateDiagram-v2"}
BRACKETS = {")": "(", "]": "[", "}": "{"}
# What looks like a file in the project: with a folder, or with one of these endings.
PATH = re.compile(r"(?:\.?[\w{}-][\w.{}-]*/)+[\w.-]*|\.?[\w.-]+\.(?:py|md|toml|json|lock|ya?ml|txt|example)")
# What is made later: by a command, by git, by the service, by the author of an integration. And the name of a protocol.
MADE = re.compile(r"\.cruft\.json|\.venv/.*|\.git/.*|build/.*|log/.*|server\.py|http/protobuf")


def documents(folder: Path) -> list[Path]:
    """Give the documents of a service, or of the repository without those of its service."""
    if (folder / "cookiecutter.json").exists():
        return sorted([*folder.glob("*.md"), *folder.glob("docs/*.md")])
    return sorted(path for path in folder.rglob("*.md") if ".venv" not in path.parts)


def tokens(document: Path) -> Iterator[Token]:
    """Give every piece of a document, those within a line as well."""
    for token in MarkdownIt("commonmark").enable("table").parse(document.read_text("utf-8")):
        yield token
        yield from token.children or ()


def blocks(document: Path, language: str) -> list[str]:
    """Give what stands in the fenced blocks of a language."""
    return [token.content for token in tokens(document) if token.type == "fence" and token.info == language]


def inline_code(document: Path) -> list[str]:
    """Give what stands between back-quotes."""
    return [token.content for token in tokens(document) if token.type == "code_inline"]


def links(document: Path) -> list[str]:
    """Give the targets of links and pictures that are files, without what follows a `#`."""
    found = [token.attrGet("href") or token.attrGet("src") for token in tokens(document)]
    targets = [unquote(str(target)).partition("#")[0] for target in found if target]
    return [target for target in targets if target and not re.match(r"\w+:", target)]


@pytest.fixture(scope="module", params=[False, True], ids=["nothing", "everything"])
def service(request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with no option, and one with all of them."""
    return bake(repository, tmp_path_factory.mktemp("service") / "output", **dict.fromkeys(options(), request.param))


def missing(document: Path, names: list[str], *folders: Path) -> list[str]:
    """Give the names that are there neither beside the document nor in one of the folders."""
    return [name for name in names if not any((folder / name).exists() for folder in (document.parent, *folders))]


def named_paths(document: Path) -> list[str]:
    """Give what between back-quotes is the path of a file or folder that is there from the start."""
    return [code for code in inline_code(document) if PATH.fullmatch(code) and not MADE.fullmatch(code)]


def test_links_of_the_repository() -> None:
    """What the repository's documents point to, and what they name, is there."""
    assert [path.name for path in documents(ROOT)] >= ["CHANGELOG.md", "README.md"]
    for document in documents(ROOT):
        assert missing(document, links(document)) == [], document.name
        assert missing(document, named_paths(document), ROOT, TEMPLATE_DIR) == [], document.name


def test_links_of_a_service(service: Path) -> None:
    """The same in a generated service, whatever was refused."""
    assert len(documents(service)) > 1
    for document in documents(service):
        assert missing(document, links(document)) == [], document.name
        assert missing(document, named_paths(document), service) == [], document.name


def test_a_dead_link_is_noticed(tmp_path: Path) -> None:
    """The checks above can fail."""
    page = tmp_path / "page.md"
    page.write_text("[a](gone.md) ![b](pictures/gone.svg#x) [c](https://example.org) `app/gone.py` `.cruft.json`\n")
    assert missing(page, links(page)) == ["gone.md", "pictures/gone.svg"]
    assert missing(page, named_paths(page), ROOT) == ["app/gone.py"]


def test_options_table() -> None:
    """The README's table says of each option what features.json and cookiecutter.json say."""
    page = (ROOT / "README.md").read_text("utf-8")
    assert with_options(page, options_table()) == page, "run `uv run python -m scripts.tables`"
    assert page.count("| off |") + page.count("| on |") == len(options())


def test_options_table_is_written(tmp_path: Path) -> None:
    """The command of the README mends a table, and leaves one that is right as it is."""
    path = copy_repository(tmp_path / "copy") / "README.md"
    right = path.read_bytes()
    path.write_bytes(right.replace(b"| off |", b"| perhaps |"))
    for _ in range(2):
        must(run([sys.executable, "-m", "scripts.tables"], path.parent))
        assert path.read_bytes() == right


@pytest.mark.parametrize("page", ["", "<!-- options -->\n<!-- /options -->\n" * 2])
def test_options_table_without_a_place(page: str) -> None:
    """A page without the marks, or with several, is left alone, with a sentence."""
    with pytest.raises(ValueError, match="places for the table"):
        with_options(page, options_table())


def test_questions_of_the_readme() -> None:
    """The README names the questions that are asked, in their order."""
    asked = json.loads((ROOT / "cookiecutter.json").read_text("utf-8"))
    sentence = (ROOT / "README.md").read_text("utf-8").partition("Asked as well: ")[2].partition("All have")[0]
    named = re.findall(r"`(\w+)`", sentence)
    assert named == [key for key in asked if not key.startswith("_") and key not in options()]


def test_size_of_the_readme() -> None:
    """One screen, besides the rows of options."""
    page = BETWEEN.sub("", (ROOT / "README.md").read_text("utf-8"))
    assert len(page.splitlines()) <= ONE_SCREEN


def test_size_of_the_service_readme(service: Path, request: pytest.FixtureRequest) -> None:
    """One screen, besides the lines of options."""
    more = LINES_OF_OPTION * len(options()) if request.node.callspec.params["service"] else 0
    assert len((service / "README.md").read_text("utf-8").splitlines()) <= ONE_SCREEN + more


def test_paths_of_the_readmes() -> None:
    """The tables of files name some, each of which is there."""
    for folder in (ROOT, TEMPLATE_DIR):
        table = (folder / "README.md").read_text("utf-8").partition("| path |")[2].partition("\n\n")[0]
        named = [name for row in table.splitlines()[2:] for name in re.findall(r"`(.+?)`", row.split("|")[1])]
        assert len(named) >= 5
        assert [name for name in named if not (folder / name).exists()] == []


def check_picture(text: str) -> None:
    """Raise AssertionError for a Mermaid diagram of an unknown kind, or with a quote or bracket that is not closed."""
    kind, _, rest = text.partition(" ")
    assert kind in PICTURES, kind
    for line in rest.splitlines():
        assert line.count('"') % 2 == 0, line
        opened: list[str] = []
        for character in re.sub(r'"[^"]*"', "", line):
            if character in BRACKETS.values():
                opened.append(character)
            elif character in BRACKETS:
                assert opened, line
                assert opened.pop() == BRACKETS[character], line
        assert opened == [], line
    assert len(re.findall(r"(?m)^\s*subgraph\b", rest)) == len(re.findall(r"(?m)^\s*end$", rest))


@pytest.mark.parametrize("folder", [ROOT, TEMPLATE_DIR], ids=["repository", "service"])
def test_pictures(folder: Path) -> None:
    """Each README has a picture of the way of a request; no picture anywhere has a slip of the pen."""
    assert len(blocks(folder / "README.md", "mermaid")) == 1
    for document in documents(folder):
        for picture in blocks(document, "mermaid"):
            check_picture(picture)


@pytest.mark.parametrize(
    "broken",
    [
        lambda picture: picture.replace("flowchart", "flowcart"),
        lambda picture: picture.replace('"]', "]", 1),
        lambda picture: picture.replace("]", ")", 1),
        lambda picture: picture.replace("]", "", 1),
        lambda picture: f"{picture}subgraph one\n",
    ],
)
def test_a_broken_picture_is_noticed(broken: Callable[[str], str]) -> None:
    """The check above can fail."""
    (picture,) = blocks(ROOT / "README.md", "mermaid")
    check_picture(picture)
    with pytest.raises(AssertionError):
        check_picture(broken(picture))
