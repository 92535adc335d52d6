"""Makes the copied service the user's own: takes out what was refused, puts the names in, says what comes next.

Cookiecutter has copied every file byte for byte; the few places that hold a name hold a valid one until now. Each step
takes the project's folder and the answers, and leaves the same result when it runs again. Everything is in this one
file, of the standard library, as cookiecutter hands a hook over alone.
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
Need = tuple[str, str]  # a package and one of its extras, or ""

# The only tag of this file; why no answer can leave this literal is said in pre_gen_project.py.
ANSWERS = r"""
{{ cookiecutter | tojson }}
"""

SPDX_OF_PROPRIETARY = "LicenseRef-Proprietary"
ROOT_PACKAGE = re.compile(r'(?m)^name = "(?P<name>[^"]*)"(?=\nversion = "[^"]*"\nsource = \{ virtual = "\." \})')
LOCKED_NAMES = re.compile(r'(?m)^\[\[package\]\]\nname = "([^"]*)"')
LOCKED_NEEDS = re.compile(r'(?m)^ {4}\{ name = "(?P<name>[^"]*)"(?:.* extra = \[(?P<extras>[^\]]*)\])?')
EXTRAS = "\n[package.optional-dependencies]\n"
EXTRA = re.compile(r"(?m)^(?P<extra>\S+) = \[\n(?P<needs>(?: .*\n)*)\]\n")
# `# >>> celery saq` to `# <<< celery saq`, in Markdown within `<!-- -->`: stays with any of the options it names.
FENCE = re.compile(
    r"^[ \t]*(?:#|<!--) >>> (?P<names>\w+(?: \w+)*)(?: -->)?\n"
    r"(?P<inside>(?:.*\n)*?)"
    r"^[ \t]*(?:#|<!--) <<< (?P=names)(?: -->)?\n",
    re.MULTILINE,
)
# Copied byte for byte, whatever is chosen; the lock has its own step.
UNFENCED = {".py", ".json", ".lock"}
# Folders that may lie in a project over which a new one is generated, and are no part of it.
NOT_OURS = {".git", ".uv", ".venv"}
# Variables that say who the user is, to git.
WHO_COMMITS = ("GIT_AUTHOR_", "GIT_COMMITTER_", "GIT_CONFIG")
# What is rendered; the tag in the name of the service's folder would be one of this file.
RENDERED = ("cookiecutter.json", "hooks", "*cookiecutter.project_slug*")
# What Jinja reads as a tag, written so that it is none here.
TAG = re.compile(r"\{(?:\{|%|#)")
# What Markdown reads as markup inside of a line, a `_` between two letters aside.
MARKUP = re.compile(r"[\\`*\[\]<>&~#]|(?<![^\W_])_|_(?![^\W_])")


def write(path: Path, text: str) -> None:
    """Write a text file with the line ends that `text` has, on every system."""
    path.write_bytes(text.encode())


def toml_string(text: str) -> str:
    """Write `text` as a TOML basic string, quotation marks included."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\u{ord(match[0]):04x}", escaped) + '"'


def markdown_text(text: str) -> str:
    """Write `text` so that Markdown shows it as it is, anywhere but at the start of a line."""
    return MARKUP.sub(lambda match: "\\" + match[0], text)


def set_value(table: str, key: str, value: str) -> str:
    """Set `key = value` in the lines of a TOML table: where the key stands, else below the description."""
    line = f"{key} = {value}"
    if re.search(rf"^{key} = ", table, re.MULTILINE):
        return re.sub(rf"^{key} = .*$", lambda _: line, table, count=1, flags=re.MULTILINE)
    return re.sub(r"^description = .*$", lambda match: f"{match[0]}\n{line}", table, count=1, flags=re.MULTILINE)


def owned(features: Features, chosen: Collection[str], what: str) -> set[str]:
    """Give the paths or requirements of refused options that no chosen option owns as well."""
    kept = {item for option in chosen for item in features[option][what]}
    return {item for feature in features.values() for item in feature[what]} - kept


def remove_paths(project: Path, paths: Collection[str]) -> None:
    """Remove files and folders, and each folder that is left empty; what is gone already is fine."""
    for path in (project / name for name in sorted(paths)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        for parent in path.parents:
            if parent == project or not parent.is_dir() or any(parent.iterdir()):
                break
            parent.rmdir()


def cut_fences(text: str, options: Collection[str], chosen: Collection[str]) -> str:
    """Cut what stands between the fences of refused options, and their fences, nested ones too; others are not ours."""

    def keep(match: re.Match[str]) -> str:
        names = set(match["names"].split())
        if not names <= set(options):
            return match[0]
        return match["inside"] if names & set(chosen) else ""

    while (cut := FENCE.sub(keep, text)) != text:
        text = cut
    return text


def cut_fences_of_files(project: Path, options: Collection[str], chosen: Collection[str]) -> None:
    """Cut the fences in every text file but code; a file that is no text has none."""
    for path in sorted(path for path in project.rglob("*") if path.is_file() and path.suffix not in UNFENCED):
        if path.relative_to(project).parts[0] in NOT_OURS:
            continue
        try:
            before = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        if (after := cut_fences(before, options, chosen)) != before:
            write(path, after)


def drop_requirements(table: str, names: Collection[str]) -> str:
    """Drop the lines of pyproject.toml that require one of `names`, extras and all; there is one a line."""
    for name in names:
        table = re.sub(rf'(?m)^ +"{re.escape(name)}(?![-\w.]).*\n', "", table)
    return table


def needs(text: str) -> set[Need]:
    """Give what lists of uv.lock ask for: packages, and their extras."""
    found = list(LOCKED_NEEDS.finditer(text))
    extras = {(match["name"], extra) for match in found for extra in re.findall(r'"([^"]*)"', match["extras"] or "")}
    return {(match["name"], "") for match in found} | extras


def reach(blocks: Collection[str]) -> set[Need]:
    """Give what the root package needs, itself included, over any number of steps.

    Blocks of one name are one package in several versions: what any of them needs, all of them need.
    """
    graph: dict[Need, set[Need]] = {}
    for block in blocks:
        package, _, extras = block.partition(EXTRAS)
        name = LOCKED_NAMES.findall(block)[0]
        graph.setdefault((name, ""), set()).update(needs(package))
        for found in EXTRA.finditer(extras):
            graph.setdefault((name, found["extra"]), set()).update(needs(found["needs"]))
    reached: set[Need] = set()
    waiting = {(match["name"], "") for block in blocks if (match := ROOT_PACKAGE.search(block))}
    while waiting:
        reached |= waiting
        waiting = {need for known in waiting for need in graph.get(known, ())} - reached
    return reached


def without_extras(block: str, reached: set[Need]) -> str:
    """Give a package's block with only those of its extras that something needs."""
    package, _, extras = block.partition(EXTRAS)
    name = LOCKED_NAMES.findall(block)[0]
    kept = EXTRA.sub(lambda match: match[0] if (name, match["extra"]) in reached else "", extras)
    return f"{package}{EXTRAS}{kept}" if kept.strip() else f"{package}\n"


def prune_lock(lock: str, names: Collection[str]) -> str:
    """Take requirements out of uv.lock, and everything that nothing needs any more, as `uv lock` would."""
    header, *blocks = re.split(r"(?m)(?=^\[\[package\]\]$)", lock)
    unwanted = re.compile(r'(?m)^ {4}\{ name = "(?:' + "|".join(map(re.escape, names)) + r')"[ ,].*\n')
    blocks = [unwanted.sub("", block) if ROOT_PACKAGE.search(block) else block for block in blocks]
    reached = reach(blocks)
    kept = [block for block in blocks if (LOCKED_NAMES.findall(block)[0], "") in reached]
    kept = [without_extras(block, reached) if EXTRAS in block else block for block in kept]
    return "".join([header, *kept]).rstrip("\n") + "\n"


def choose_options(project: Path, answers: Answers) -> None:
    """Take out what refused options own, as features.json says: paths, requirements, fenced lines."""
    manifest = project / "features.json"
    if not manifest.is_file():
        return
    features: Features = json.loads(manifest.read_text("utf-8"))
    chosen = [option for option in features if answers[option]]
    remove_paths(project, owned(features, chosen, "paths"))
    if names := owned(features, chosen, "requirements"):
        write(project / "pyproject.toml", drop_requirements((project / "pyproject.toml").read_text("utf-8"), names))
        write(project / "uv.lock", prune_lock((project / "uv.lock").read_text("utf-8"), names))
    cut_fences_of_files(project, features, chosen)
    manifest.unlink()


def name_project(project: Path, answers: Answers) -> None:
    """Put name, description, authors and licence into the [project] table of pyproject.toml."""
    author = f"name = {toml_string(answers['full_name'])}, email = {toml_string(answers['email'])}"
    license_id = SPDX_OF_PROPRIETARY if answers["license"] == "Proprietary" else answers["license"]
    table, *others = re.split(r"(?m)(?=^\[)", (project / "pyproject.toml").read_text("utf-8").removeprefix("[project]"))
    table = set_value(table, "name", toml_string(answers["project_slug"]))
    table = set_value(table, "description", toml_string(answers["description"]))
    table = set_value(table, "license", toml_string(license_id))
    table = set_value(table, "authors", "[{ " + author + " }]")
    write(project / "pyproject.toml", "".join(["[project]", table, *others]))


def refuse_needed(slug: str, lock: str) -> None:
    """Raise SystemExit with a sentence when the service would have the name of a package that it needs."""
    root = ROOT_PACKAGE.search(lock)
    if (root is None or slug != root["name"]) and slug in LOCKED_NAMES.findall(lock):
        sys.exit(f"The project_slug {slug!r} is the name of a package the service needs: choose another one.")


def name_lock(project: Path, answers: Answers) -> None:
    """Give the root package of uv.lock its new name, and the place that uv gives to this name.

    uv would accept it in any place, and move it with the first requirement that the owner adds: a change of half of the
    lock, with which every later update would be in conflict.
    Raises SystemExit with a sentence when the service would have the name of a package that it needs.
    """
    slug, lock = answers["project_slug"], (project / "uv.lock").read_text("utf-8")
    root = ROOT_PACKAGE.search(lock)
    if root is None:
        sys.exit("The uv.lock of the template has no root package: the template is broken, not your answers.")
    refuse_needed(slug, lock)
    renamed = f'{lock[: root.start()]}name = "{slug}"{lock[root.end() :]}'
    header, *blocks = re.split(r"(?m)(?=^\[\[package\]\]$)", renamed)
    blocks = sorted((block.rstrip("\n") for block in blocks), key=lambda block: LOCKED_NAMES.findall(block)[0])
    write(project / "uv.lock", header + "\n\n".join(blocks) + "\n")


def name_readme(project: Path, answers: Answers) -> None:
    """Put name and description into the heading and the first paragraph of README.md, its lines 1 and 3."""
    lines = (project / "README.md").read_text("utf-8").split("\n")
    lines[0] = f"# {markdown_text(answers['project_name'])}"
    lines[2] = f"**{answers['project_slug']}**: {markdown_text(answers['description'])}"
    write(project / "README.md", "\n".join(lines))


def choose_license(project: Path, answers: Answers) -> None:
    """Make the text of the chosen licence LICENSE, with year and holder, and remove the others."""
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


def git(folder: Path, *words: str) -> str:
    """Run git in a folder and give what it says; raises OSError or CalledProcessError, with its words in `stderr`."""
    # Within a hook of git most of these name the repository of somebody else; who commits is the same person.
    strange = {name for name in os.environ if name.startswith("GIT_") and not name.startswith(WHO_COMMITS)}
    environment = {name: value for name, value in os.environ.items() if name not in strange}
    return subprocess.run(  # noqa: S603 - words of ours
        ["git", "-C", str(folder), *words],  # noqa: S607 - the user's git
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        encoding="utf-8",
        errors="replace",
    ).stdout.strip()


def words_of(error: OSError | subprocess.CalledProcessError) -> str:
    """Give what git said, in one line, or why it could not be asked."""
    if isinstance(error, OSError):
        return f"it cannot be run ({error.strerror})"
    return " ".join((str(error.stderr) or str(error)).split())


def template_folder(answers: Answers) -> Path:
    """Give the folder of the template; one that the user wrote as a relative path counts from where they stood."""
    starts = (os.environ.get("PWD", ""), answers.get("_output_dir", ""))
    folders = [Path(start, answers["_repo_dir"]) for start in starts]
    return next((folder for folder in folders if (folder / "cookiecutter.json").is_file()), folders[0]).resolve()


def without_secrets(url: str) -> str:
    """Take the password out of the address of a repository, and from the web's the user as well."""
    url = re.sub(r"^(https?://)[^/]*@", r"\1", url)
    return re.sub(r"^(\w+://[^/:@]*):[^/]*@", r"\1@", url)


def origin(repository: Path, answers: Answers) -> str:
    """Say where others find the template at its commit: a remote that has it, without secrets, else its folder."""
    remotes = sorted(git(repository, "remote").splitlines(), key=lambda name: name != "origin")
    held = git(repository, "branch", "--remotes", "--contains", "HEAD", "--format=%(refname:lstrip=2)").splitlines()
    # What cookiecutter has cloned a moment ago is all of the remote's, a tag beside its branches too.
    cloned = ":" in answers.get("_template", "") and answers["_template"] != answers["_repo_dir"]
    for remote in remotes:
        if cloned or any(branch.startswith(f"{remote}/") for branch in held):
            return without_secrets(git(repository, "remote", "get-url", remote))
    return str(repository)


def remember_template(project: Path, answers: Answers) -> str:
    """Write .cruft.json, by which `cruft update` finds the template again, and say what came of it.

    Without a commit that is just what was rendered there is nothing to come back to: an unpacked archive, changes that
    nobody committed.
    """
    repository = template_folder(answers)
    questions = {key: value for key, value in answers.items() if not key.startswith("_")}
    if any(TAG.search(str(value)) for value in questions.values()):
        return "no, as cruft would take the braces in your answers for tags of a template"
    try:
        is_top = Path(git(repository, "rev-parse", "--show-toplevel")).resolve() == repository
        if not is_top or git(repository, "status", "--porcelain", "--untracked-files=all", "--", *RENDERED):
            return "no, as the template is not a commit of a git repository"
        template, commit = origin(repository, answers), git(repository, "rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no, as git says: {words_of(error)}"
    questions |= {"_template": template, "_commit": commit}
    state = {
        "template": template,
        "commit": commit,
        "checkout": answers.get("_checkout"),
        "context": {"cookiecutter": questions},
        "directory": None,
    }
    write(project / ".cruft.json", json.dumps(state, indent=2) + "\n")
    return f"uvx cruft update --skip-apply-ask, from {template} at {commit[:12]}"


def repository_of(folder: Path) -> Path | None:
    """Give the top folder of the repository that a folder lies in; none when there is none, or no git."""
    try:
        return Path(git(folder, "rev-parse", "--show-toplevel")).resolve()
    except (OSError, subprocess.CalledProcessError):
        return None


def start_repository(project: Path, answers: Answers) -> str:
    """Make the project a git repository with a first commit, if asked, and say what came of it."""
    if not answers.get("git_init"):
        return "no, as you have not asked for it"
    if (repository := repository_of(project)) is not None:
        is_own = repository == project.resolve()
        return "it is a repository already" if is_own else f"no, as the folder lies in the repository {repository}"
    try:
        git(project, "init", "--quiet", "--initial-branch=main")
        git(project, "add", "--all")
        git(project, *identity(project, answers), "commit", "--quiet", "--message=The service as it was generated")
    except (OSError, subprocess.CalledProcessError) as error:
        return f"not finished, as git says: {words_of(error)}"
    return "yes, with a first commit on main"


def identity(project: Path, answers: Answers) -> list[str]:
    """Give git the author of the answers where the user has not told git who they are."""
    try:
        for role in ("AUTHOR", "COMMITTER"):
            # Without this setting git may guess: root@the-machine.
            git(project, "-c", "user.useConfigOnly=true", "var", f"GIT_{role}_IDENT")
    except subprocess.CalledProcessError:
        return ["-c", f"user.name={answers['full_name']}", "-c", f"user.email={answers['email']}"]
    return []


def closing(project: Path, answers: Answers, updates: str, repository: str) -> str:
    """Say what was made, and the next commands."""
    options = {key: value for key, value in answers.items() if isinstance(value, bool) and key != "git_init"}
    compose = "\n  docker compose up --wait" if (project / "compose.yaml").is_file() else ""
    return f"""
{answers["project_name"]} is ready.

  what:     {answers["description"]}
  package:  {answers["project_slug"]}
  author:   {answers["full_name"]} <{answers["email"]}>
  licence:  {answers["license"]}, {answers["year"]}
  with:     {", ".join(key for key, value in options.items() if value) or "no option"}
  without:  {", ".join(key for key, value in options.items() if not value) or "nothing: every option is on"}
  git:      {repository}
  updates:  {updates}

Next:

  cd {shlex.quote(str(project))}
  make run
  make test{compose}
"""


def main() -> None:
    """Take every step in the current folder, which is the new project, and close with a word to the user."""
    project, answers = Path.cwd(), json.loads(ANSWERS)
    if "_repo_dir" in answers:  # at birth no option's package may be in the way: its day may come
        refuse_needed(answers["project_slug"], (project / "uv.lock").read_text("utf-8"))
    for step in STEPS:
        step(project, answers)
    if "_repo_dir" not in answers:
        return  # cruft renders into folders that are gone a moment later, and keeps .cruft.json itself
    updates = remember_template(project, answers)
    repository = start_repository(project, answers)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a screen that lacks a letter is no reason to delete the project
    print(closing(project, answers, updates, repository))


if __name__ == "__main__":
    main()
