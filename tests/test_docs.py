"""The documents: links and paths exist, the table of options is current, diagrams are valid, the README is short."""

import json
import re
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from scripts.combinations import options
from scripts.snapshot import ROOT, copy_repository
from scripts.tables import BETWEEN, options_table, replace_table
from tests.support.baking import TEMPLATE_DIR, bake, must, run
from tests.support.documents import blocks, documents, inline_code, tokens

MAX_README_LINES = 80
# The number of lines that an option may add to the README of a service, on average.
LINES_PER_OPTION = 4
DIAGRAMS = {"flowchart", "sequenceDiagram", "stateDiagram-v2"}
BRACKETS = {")": "(", "]": "[", "}": "{"}
# Inline code that looks like a path in the project: it has a folder, or one of these extensions.
PATH = re.compile(r"(?:\.?[\w{}-][\w.{}-]*/)+[\w.-]*|\.?[\w.-]+\.(?:py|md|toml|json|lock|ya?ml|txt|example)")
# Paths that do not exist yet: a command, git, the service or the author of an integration creates them. `http/protobuf`
# is a protocol.
CREATED_LATER = re.compile(r"\.cruft\.json|\.venv/.*|\.git/.*|build/.*|log/.*|server\.py|http/protobuf")


def links(document: Path) -> list[str]:
    """Return the files that are targets of links and images, without anchors."""
    found = [token.attrGet("href") or token.attrGet("src") for token in tokens(document)]
    targets = [unquote(str(target)).partition("#")[0] for target in found if target]
    return [target for target in targets if target and not re.match(r"\w+:", target)]


@pytest.fixture(scope="module", params=["repository", "nothing", "everything"])
def folder(request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository, a service without options, and one with all options."""
    if request.param == "repository":
        return ROOT
    answers = dict.fromkeys(options(), request.param == "everything")
    return bake(repository, tmp_path_factory.mktemp("service") / "output", **answers)


def missing(document: Path, names: list[str], *folders: Path) -> list[str]:
    """Return the names that exist neither in the document's folder nor in one of the folders."""
    return [name for name in names if not any((folder / name).exists() for folder in (document.parent, *folders))]


def named_paths(document: Path) -> list[str]:
    """Return the inline code that is the path of a file or folder of the project."""
    return [code for code in inline_code(document) if PATH.fullmatch(code) and not CREATED_LATER.fullmatch(code)]


def test_links_and_paths_exist(folder: Path) -> None:
    places = (ROOT, TEMPLATE_DIR) if folder == ROOT else (folder,)
    assert len(documents(folder)) > 1
    for document in documents(folder):
        assert missing(document, links(document)) == [], document.name
        assert missing(document, named_paths(document), *places) == [], document.name


def test_readme_is_short_not_counting_options(folder: Path, request: pytest.FixtureRequest) -> None:
    page = BETWEEN.sub("", (folder / "README.md").read_text("utf-8"))
    extra = LINES_PER_OPTION * len(options()) if request.node.callspec.params["folder"] == "everything" else 0
    assert len(page.splitlines()) <= MAX_README_LINES + extra


def test_paths_in_the_table_of_files_exist(folder: Path) -> None:
    table = (folder / "README.md").read_text("utf-8").partition("| path |")[2].partition("\n\n")[0]
    named = [name for row in table.splitlines()[2:] for name in re.findall(r"`(.+?)`", row.split("|")[1])]
    assert len(named) >= 5
    assert [name for name in named if not (folder / name).exists()] == []


def test_table_of_options_matches_features_json() -> None:
    page = (ROOT / "README.md").read_text("utf-8")
    assert replace_table(page, options_table()) == page, "run `uv run python -m scripts.tables`"
    assert page.count("| off |") + page.count("| on |") == len(options())


def test_command_updates_the_table_of_options(tmp_path: Path) -> None:
    path = copy_repository(tmp_path / "copy") / "README.md"
    expected = path.read_bytes()
    path.write_bytes(expected.replace(b"| off |", b"| perhaps |"))
    for _ in range(2):
        must(run([sys.executable, "-m", "scripts.tables"], path.parent))
        assert path.read_bytes() == expected


@pytest.mark.parametrize("page", ["", "<!-- options -->\n<!-- /options -->\n" * 2])
def test_page_without_exactly_one_table_is_an_error(page: str) -> None:
    with pytest.raises(ValueError, match="tables of options"):
        replace_table(page, options_table())


def test_readme_lists_the_questions_in_their_order() -> None:
    questions = json.loads((ROOT / "cookiecutter.json").read_text("utf-8"))
    sentence = (ROOT / "README.md").read_text("utf-8").partition("Other questions: ")[2].partition("All have")[0]
    named = re.findall(r"`(\w+)`", sentence)
    assert named == [key for key in questions if not key.startswith("_") and key not in options()]


def check_diagram(text: str) -> None:
    """Raise AssertionError if a Mermaid diagram has an unknown type, or an unclosed quotation mark or bracket."""
    kind, _, rest = text.partition(" ")
    assert kind in DIAGRAMS, kind
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


def test_diagrams_are_valid_and_the_readme_has_one(folder: Path) -> None:
    assert len(blocks(folder / "README.md", "mermaid")) == 1
    for document in documents(folder):
        for diagram in blocks(document, "mermaid"):
            check_diagram(diagram)
