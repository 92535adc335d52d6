"""Turn the copied service into the user's project: remove declined options, write the names, print the next commands.

Cookiecutter has copied every file byte for byte; names are still those of the template. Each step takes the project
folder and the answers, and is idempotent. Cookiecutter copies a hook to a temporary file and runs it with the user's
Python, so the hook is one file and imports the standard library only.
"""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

Answers = Mapping[str, Any]
Features = Mapping[str, Mapping[str, Any]]
Dependency = tuple[str, str]  # a package and one of its extras, or ""

# The only Jinja tag in this file; pre_gen_project.py explains why no answer can end this string literal.
ANSWERS = r"""
{{ cookiecutter | tojson }}
"""

SPDX_OF_PROPRIETARY = "LicenseRef-Proprietary"
ROOT_PACKAGE = re.compile(r'(?m)^name = "(?P<name>[^"]*)"(?=\nversion = "[^"]*"\nsource = \{ virtual = "\." \})')
LOCKED_NAMES = re.compile(r'(?m)^\[\[package\]\]\nname = "([^"]*)"')
LOCKED_DEPENDENCIES = re.compile(r'(?m)^ {4}\{ name = "(?P<name>[^"]*)"(?:.* extra = \[(?P<extras>[^\]]*)\])?')
EXTRAS = "\n[package.optional-dependencies]\n"
EXTRA = re.compile(r"(?m)^(?P<extra>\S+) = \[\n(?P<dependencies>(?: .*\n)*)\]\n")
# A fence: `# >>> celery saq` to `# <<< celery saq`, in Markdown inside `<!-- -->`. Its lines stay if at least one of
# the options that it names is chosen.
FENCE = re.compile(
    r"^[ \t]*(?:#|<!--) >>> (?P<names>\w+(?: \w+)*)(?: -->)?\n"
    r"(?P<inside>(?:.*\n)*?)"
    r"^[ \t]*(?:#|<!--) <<< (?P=names)(?: -->)?\n",
    re.MULTILINE,
)
# Files without fences. Code is the same for all options; `prune_lock` changes the lock file.
UNFENCED = {".py", ".json", ".lock"}
# Folders that an existing project may have when a new one is generated over it (`--overwrite-if-exists`).
FOREIGN_FOLDERS = {".git", ".uv", ".venv"}
# Environment variables that identify the user to git.
IDENTITY_VARIABLES = ("GIT_AUTHOR_", "GIT_COMMITTER_", "GIT_CONFIG")
# The files on which the generated project depends. The braces in the name of the service's folder are left out, as
# they would be a Jinja tag in this file.
RENDERED = ("cookiecutter.json", "hooks", "*cookiecutter.project_slug*")
# The start of a Jinja tag, written so that it is not one in this file.
TAG = re.compile(r"\{(?:\{|%|#)")
# Characters that are Markdown markup inside a line; a `_` between two letters is not.
MARKUP = re.compile(r"[\\`*\[\]<>&~#]|(?<![^\W_])_|_(?![^\W_])")


def write(path: Path, text: str) -> None:
    """Write a text file without translating line endings, also on Windows."""
    path.write_bytes(text.encode())


def toml_string(text: str) -> str:
    """Return `text` as a TOML basic string, including the quotation marks."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\u{ord(match[0]):04x}", escaped) + '"'


def markdown_text(text: str) -> str:
    """Escape Markdown markup in `text`. Do not put the result at the start of a line: there, more is markup."""
    return MARKUP.sub(lambda match: "\\" + match[0], text)


def set_value(table: str, key: str, value: str) -> str:
    """Set `key = value` in the lines of a TOML table: replace the key's line, or add one below the description."""
    line = f"{key} = {value}"
    if re.search(rf"^{key} = ", table, re.MULTILINE):
        return re.sub(rf"^{key} = .*$", lambda _: line, table, count=1, flags=re.MULTILINE)
    return re.sub(r"^description = .*$", lambda match: f"{match[0]}\n{line}", table, count=1, flags=re.MULTILINE)


def declined_items(features: Features, chosen: Collection[str], field: str) -> set[str]:
    """Return what only declined options own; `field` is "paths" or "requirements"."""
    needed = {item for option in chosen for item in features[option][field]}
    return {item for feature in features.values() for item in feature[field]} - needed


def remove_paths(project: Path, paths: Collection[str]) -> None:
    """Remove files and folders, then the parent folders that are empty; ignore paths that do not exist."""
    for path in (project / name for name in sorted(paths)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        for parent in path.parents:
            if parent == project or not parent.is_dir() or any(parent.iterdir()):
                break
            parent.rmdir()


def strip_fences(text: str, options: Collection[str], chosen: Collection[str]) -> str:
    """Remove the fences of all options, nested ones too, and the lines inside those of declined options.

    A fence with another name belongs to the owner of the project and stays.
    """

    def replace(match: re.Match[str]) -> str:
        names = set(match["names"].split())
        if not names <= set(options):
            return match[0]
        return match["inside"] if names & set(chosen) else ""

    while (stripped := FENCE.sub(replace, text)) != text:
        text = stripped
    return text


def strip_fences_in_files(project: Path, options: Collection[str], chosen: Collection[str]) -> None:
    """Strip the fences in every text file except code; skip files that are not UTF-8 text."""
    for path in sorted(path for path in project.rglob("*") if path.is_file() and path.suffix not in UNFENCED):
        if path.relative_to(project).parts[0] in FOREIGN_FOLDERS:
            continue
        try:
            before = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        if (after := strip_fences(before, options, chosen)) != before:
            write(path, after)


def drop_requirements(table: str, names: Collection[str]) -> str:
    """Drop the lines of pyproject.toml that require one of `names`, with or without extras; one requirement a line."""
    for name in names:
        table = re.sub(rf'(?m)^ +"{re.escape(name)}(?![-\w.]).*\n', "", table)
    return table


def dependencies_in(text: str) -> set[Dependency]:
    """Return the packages, and their extras, in the dependency lists of a part of uv.lock."""
    found = list(LOCKED_DEPENDENCIES.finditer(text))
    extras = {(match["name"], extra) for match in found for extra in re.findall(r'"([^"]*)"', match["extras"] or "")}
    return {(match["name"], "") for match in found} | extras


def transitive_dependencies(blocks: Collection[str]) -> set[Dependency]:
    """Return the direct and transitive dependencies of the root package, and the root package itself.

    A package that is locked in several versions has several blocks. Their dependencies are merged: if one version is
    needed, all of them stay.
    """
    graph: dict[Dependency, set[Dependency]] = {}
    for block in blocks:
        package, _, extras = block.partition(EXTRAS)
        name = LOCKED_NAMES.findall(block)[0]
        graph.setdefault((name, ""), set()).update(dependencies_in(package))
        for extra in EXTRA.finditer(extras):
            graph.setdefault((name, extra["extra"]), set()).update(dependencies_in(extra["dependencies"]))
    visited: set[Dependency] = set()
    pending = {(match["name"], "") for block in blocks if (match := ROOT_PACKAGE.search(block))}
    while pending:
        visited |= pending
        pending = {dependency for parent in pending for dependency in graph.get(parent, ())} - visited
    return visited


def prune_extras(block: str, needed: set[Dependency]) -> str:
    """Return the block of a package in uv.lock with only those of its extras that are needed."""
    package, _, extras = block.partition(EXTRAS)
    name = LOCKED_NAMES.findall(block)[0]
    pruned = EXTRA.sub(lambda match: match[0] if (name, match["extra"]) in needed else "", extras)
    return f"{package}{EXTRAS}{pruned}" if pruned.strip() else f"{package}\n"


def prune_lock(lock: str, names: Collection[str]) -> str:
    """Remove requirements, and packages that are then unneeded, from uv.lock; the result is that of `uv lock`."""
    header, *blocks = re.split(r"(?m)(?=^\[\[package\]\]$)", lock)
    unwanted = re.compile(r'(?m)^ {4}\{ name = "(?:' + "|".join(map(re.escape, names)) + r')"[ ,].*\n')
    blocks = [unwanted.sub("", block) if ROOT_PACKAGE.search(block) else block for block in blocks]
    needed = transitive_dependencies(blocks)
    blocks = [block for block in blocks if (LOCKED_NAMES.findall(block)[0], "") in needed]
    blocks = [prune_extras(block, needed) if EXTRAS in block else block for block in blocks]
    return "".join([header, *blocks]).rstrip("\n") + "\n"


def choose_options(project: Path, answers: Answers) -> None:
    """Remove the paths, requirements and fenced lines of declined options, which features.json lists."""
    manifest = project / "features.json"
    if not manifest.is_file():
        return
    features: Features = json.loads(manifest.read_text("utf-8"))
    chosen = [option for option in features if answers[option]]
    remove_paths(project, declined_items(features, chosen, "paths"))
    if names := declined_items(features, chosen, "requirements"):
        write(project / "pyproject.toml", drop_requirements((project / "pyproject.toml").read_text("utf-8"), names))
        write(project / "uv.lock", prune_lock((project / "uv.lock").read_text("utf-8"), names))
    strip_fences_in_files(project, features, chosen)
    manifest.unlink()


def name_project(project: Path, answers: Answers) -> None:
    """Write name, description, authors and licence into the [project] table of pyproject.toml."""
    author = f"name = {toml_string(answers['full_name'])}, email = {toml_string(answers['email'])}"
    license_id = SPDX_OF_PROPRIETARY if answers["license"] == "Proprietary" else answers["license"]
    table, *others = re.split(r"(?m)(?=^\[)", (project / "pyproject.toml").read_text("utf-8").removeprefix("[project]"))
    table = set_value(table, "name", toml_string(answers["project_slug"]))
    table = set_value(table, "description", toml_string(answers["description"]))
    table = set_value(table, "license", toml_string(license_id))
    table = set_value(table, "authors", "[{ " + author + " }]")
    write(project / "pyproject.toml", "".join(["[project]", table, *others]))


def refuse_package_name(slug: str, lock: str) -> None:
    """Raise SystemExit with a message if the slug is the name of a package in the lock file."""
    root = ROOT_PACKAGE.search(lock)
    if (root is None or slug != root["name"]) and slug in LOCKED_NAMES.findall(lock):
        sys.exit(f"The project_slug {slug!r} is the name of a package that the service needs: choose another one.")


def name_lock(project: Path, answers: Answers) -> None:
    """Rename the root package in uv.lock, and move it to its place in the alphabetical order of packages.

    uv accepts it in any place, but would move it when the owner adds a first requirement. That would change half of
    the lock file, and every later `cruft update` would have a conflict there.
    Raises SystemExit with a message if the slug is the name of a package that the service needs.
    """
    slug, lock = answers["project_slug"], (project / "uv.lock").read_text("utf-8")
    root = ROOT_PACKAGE.search(lock)
    if root is None:
        sys.exit(
            "The uv.lock of the template has no root package: this is an error in the template, not in your answers."
        )
    refuse_package_name(slug, lock)
    renamed = f'{lock[: root.start()]}name = "{slug}"{lock[root.end() :]}'
    header, *blocks = re.split(r"(?m)(?=^\[\[package\]\]$)", renamed)
    blocks = sorted((block.rstrip("\n") for block in blocks), key=lambda block: LOCKED_NAMES.findall(block)[0])
    write(project / "uv.lock", header + "\n\n".join(blocks) + "\n")


def name_readme(project: Path, answers: Answers) -> None:
    """Write name and description into the heading and the first paragraph of README.md, its lines 1 and 3."""
    lines = (project / "README.md").read_text("utf-8").split("\n")
    lines[0] = f"# {markdown_text(answers['project_name'])}"
    lines[2] = f"**{answers['project_slug']}**: {markdown_text(answers['description'])}"
    write(project / "README.md", "\n".join(lines))


def choose_license(project: Path, answers: Answers) -> None:
    """Write the text of the chosen licence, with year and copyright holder, to LICENSE; remove the other texts."""
    texts = project / "licenses"
    if texts.is_dir():
        text = (texts / f"{answers['license']}.txt").read_text("utf-8")
        write(project / "LICENSE", text.replace("<year>", answers["year"]).replace("<holder>", answers["full_name"]))
        shutil.rmtree(texts)


STEPS: tuple[Callable[[Path, Answers], None], ...] = (
    choose_options,
    name_project,
    name_lock,
    name_readme,
    choose_license,
)


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder and return its output; raises OSError, or CalledProcessError with the error in `stderr`."""
    # If cookiecutter runs inside a git hook, variables such as GIT_DIR name the repository of that hook.
    foreign = {name for name in os.environ if name.startswith("GIT_") and not name.startswith(IDENTITY_VARIABLES)}
    environment = {name: value for name, value in os.environ.items() if name not in foreign}
    return subprocess.run(  # noqa: S603 - the arguments are ours
        ["git", "-C", str(folder), *arguments],  # noqa: S607 - git from the user's PATH
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        encoding="utf-8",
        errors="replace",
    ).stdout.strip()


def describe_failure(error: OSError | subprocess.CalledProcessError) -> str:
    """Return the error message of git in one line, or the reason why git could not be run."""
    if isinstance(error, OSError):
        return f"git cannot be run ({error.strerror})"
    return f"git reports: {' '.join((str(error.stderr) or str(error)).split())}"


def template_folder(answers: Answers) -> Path:
    """Return the folder of the template; the user may have given it as a relative path.

    The current folder of a hook is the new project. So try PWD, where cookiecutter was started, then its output folder.
    """
    starts = (os.environ.get("PWD", ""), answers.get("_output_dir", ""))
    folders = [Path(start, answers["_repo_dir"]) for start in starts]
    return next((folder for folder in folders if (folder / "cookiecutter.json").is_file()), folders[0]).resolve()


def remove_credentials(url: str) -> str:
    """Remove the password from the URL of a repository, and from an HTTP URL also the user."""
    url = re.sub(r"^(https?://)[^/]*@", r"\1", url)
    return re.sub(r"^(\w+://[^/:@]*):[^/]*@", r"\1@", url)


def template_address(repository: Path, answers: Answers) -> str:
    """Return the URL of a remote that has the template's commit, without credentials; else the repository's folder."""
    remotes = sorted(git(repository, "remote").splitlines(), key=lambda name: name != "origin")
    branches = git(repository, "branch", "--remotes", "--contains", "HEAD", "--format=%(refname:lstrip=2)").splitlines()
    # The remote has every commit of a clone that cookiecutter has just made, also that of a tag outside all branches.
    cloned = ":" in answers.get("_template", "") and answers["_template"] != answers["_repo_dir"]
    for remote in remotes:
        if cloned or any(branch.startswith(f"{remote}/") for branch in branches):
            return remove_credentials(git(repository, "remote", "get-url", remote))
    return str(repository)


def record_template(project: Path, answers: Answers) -> str:
    """Write .cruft.json, which `cruft update` reads, and return a description of the result for the user.

    The file names the commit from which the project was rendered. If there is no such commit (an unpacked archive,
    uncommitted changes), no file is written.
    """
    repository = template_folder(answers)
    questions = {key: value for key, value in answers.items() if not key.startswith("_")}
    if any(TAG.search(str(value)) for value in questions.values()):
        return "not available: cruft would render the braces in your answers as Jinja tags"
    try:
        is_top = Path(git(repository, "rev-parse", "--show-toplevel")).resolve() == repository
        if not is_top or git(repository, "status", "--porcelain", "--untracked-files=all", "--", *RENDERED):
            return "not available: the template is not a git repository, or has uncommitted changes"
        template, commit = template_address(repository, answers), git(repository, "rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError) as error:
        return f"not available: {describe_failure(error)}"
    questions |= {"_template": template, "_commit": commit}
    state = {
        "template": template,
        "commit": commit,
        "checkout": answers.get("_checkout"),
        "context": {"cookiecutter": questions},
        "directory": None,
    }
    write(project / ".cruft.json", json.dumps(state, indent=2) + "\n")
    return f"uvx cruft update --skip-apply-ask (template {template}, commit {commit[:12]})"


def find_repository(folder: Path) -> Path | None:
    """Return the top folder of the git repository that contains a folder; None without a repository or without git."""
    try:
        return Path(git(folder, "rev-parse", "--show-toplevel")).resolve()
    except (OSError, subprocess.CalledProcessError):
        return None


def start_repository(project: Path, answers: Answers) -> str:
    """Make the project a git repository with a first commit if `git_init` is on; return a description of the result."""
    if not answers.get("git_init"):
        return "not created (git_init is off)"
    if (repository := find_repository(project)) is not None:
        is_own = repository == project.resolve()
        return "exists already" if is_own else f"not created: the folder is inside the git repository {repository}"
    try:
        git(project, "init", "--quiet", "--initial-branch=main")
        git(project, "add", "--all")
        git(project, *author_options(project, answers), "commit", "--quiet", "--message=Generate the service")
    except (OSError, subprocess.CalledProcessError) as error:
        return f"not finished: {describe_failure(error)}"
    return "created, with a first commit on main"


def author_options(project: Path, answers: Answers) -> list[str]:
    """Return the options with which git commits as the author of the answers; none if the user has configured git."""
    try:
        for role in ("AUTHOR", "COMMITTER"):
            # Without this setting git may guess an identity such as root@hostname.
            git(project, "-c", "user.useConfigOnly=true", "var", f"GIT_{role}_IDENT")
    except subprocess.CalledProcessError:
        return ["-c", f"user.name={answers['full_name']}", "-c", f"user.email={answers['email']}"]
    return []


def closing_message(project: Path, answers: Answers, updates: str, repository: str) -> str:
    """Return a summary of the generated project, and the next commands."""
    options = {key: value for key, value in answers.items() if isinstance(value, bool) and key != "git_init"}
    compose = "\n  docker compose up --wait" if (project / "compose.yaml").is_file() else ""
    return f"""
{answers["project_name"]} is ready.

  description:  {answers["description"]}
  package:      {answers["project_slug"]}
  author:       {answers["full_name"]} <{answers["email"]}>
  licence:      {answers["license"]}, {answers["year"]}
  options:      {", ".join(key for key, value in options.items() if value) or "none"}
  declined:     {", ".join(key for key, value in options.items() if not value) or "none"}
  repository:   {repository}
  updates:      {updates}

Next commands:

  cd {shlex.quote(str(project))}
  make run
  make test{compose}
"""


def main() -> None:
    """Run every step in the current folder, which is the new project; print the closing message."""
    project, answers = Path.cwd(), json.loads(ANSWERS)
    # `_repo_dir` is set by cookiecutter, not by cruft. A new project must not have the name of any option's package,
    # as the option may be added later.
    if "_repo_dir" in answers:
        refuse_package_name(answers["project_slug"], (project / "uv.lock").read_text("utf-8"))
    for step in STEPS:
        step(project, answers)
    if "_repo_dir" not in answers:
        return  # cruft renders into temporary folders, and writes .cruft.json itself
    updates = record_template(project, answers)
    repository = start_repository(project, answers)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # An exception would make cookiecutter delete the project: replace characters that the terminal cannot encode.
        sys.stdout.reconfigure(errors="replace")
    print(closing_message(project, answers, updates, repository))


if __name__ == "__main__":
    main()
