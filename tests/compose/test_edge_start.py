"""start.sh: good values become a configuration that nginx finds nothing wrong with, bad ones a sentence each."""

import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from scripts.snapshot import ROOT, TEMPLATE
from tests.support.baking import Result, run
from tests.support.programs import program
from tests.support.stack import docker

from .edge import PLAIN, START, Edge, options_of

FOLDER = ROOT / TEMPLATE / "deploy/nginx"
HOSTILE = (";", "x; return 200 evil", "$host", "${x}", "a\nb", "a;\n}", "{", "}", "'", '"', "\\", "`id`", "$(id)",
           "#", "*", " ", "\t", "é", "\x1b[31m", "-1", "1e3", "0x10", "99999999999999", "+5", "5 5", "1.5",
           "%s")  # fmt: skip
NUMBERS = {"MAX_BODY_BYTES": "1099511627777", "RATE_LIMIT": "0", "MAX_CONCURRENCY": "8001", "ANSWER_TIMEOUT": "86401",
           "CLIENT_CONCURRENCY": "0", "GRACEFUL_TIMEOUT": "1"}  # fmt: skip
BAD: tuple[tuple[str, str], ...] = (
    *((name, value) for name in NUMBERS for value in (*HOSTILE, NUMBERS[name])),
    *((name, value) for name in ("LOG_FORMAT", "REQUEST_ID_TRUST", "WAIT_FOR_SERVICE")
      for value in (*HOSTILE, "JSON", "always ")),
    *(("CORS_ORIGINS", value) for value in HOSTILE if value not in {"*", " "}),
    *(("CORS_ORIGINS", value) for value in ("a.de", "https://a.de/", "https://a b", "http://", "https://a.de;")),
    *(("REQUEST_ID_HEADER", value) for value in HOSTILE if value not in {"-1", "1e3", "0x10", "99999999999999"}),
    *(("REQUEST_ID_HEADER", value) for value in ("Host", "content-length", "X-Forwarded-For", "Sec-X", "x-real-ip",
                                                 "Connection", "Forwarded", "X_Request_ID", "a" * 65)),
    *(("MASKED_QUERY", value) for value in HOSTILE if not re.fullmatch(r"[\w.+ -]+", value, re.ASCII) or "+" in value),
    *(("TRUSTED_PROXIES", value) for value in HOSTILE if value != " "),
    *(("TRUSTED_PROXIES", value) for value in ("10.0.0.0/33", "256.1.1.1", "1.2.3", "1.2.3.4.5", "01.2.3.4", "cafe",
                                               "::1::", "1:2:3:4:5:6:7:8:9", "::/129", "1:2:3:4:5:6:7::",
                                               "fe80::g", "a.de", "/", ":", ".",
                                               "10.0.0.1/", "10.0.0.0/8/8", "12345::", "10.0.0.1, ::1, nobody")),
    *(("SERVICE", value) for value in (*HOSTILE, "api", "api:", ":8000", "api:x", "http://api:8000", "api:8000/")),
)  # fmt: skip
GOOD: tuple[Mapping[str, str], ...] = (
    {},
    {"LOG_FORMAT": "text", "REQUEST_ID_TRUST": "never", "MAX_BODY_BYTES": "0", "RATE_LIMIT": "1"},
    {"REQUEST_ID_TRUST": "proxies", "TRUSTED_PROXIES": "10.0.0.0/8,192.168.1.1, 2001:db8::/32,::1,fe80::1:2:3:4/128"},
    {"TRUSTED_PROXIES": "0.0.0.0/0 ::/0 1:2:3:4:5:6:7:8 1::8 1:2:3:4:5:6:: ::3:4:5:6:7:8 1:2::5:6:7:8"},
    {"REQUEST_ID_HEADER": "X-" + "a" * 62, "MASKED_QUERY": ", token ,,a.b,c-d_e ,", "RATE_LIMIT": "1000000"},
    {"REQUEST_ID_HEADER": "Request-Id-1", "MASKED_QUERY": ",", "MAX_BODY_BYTES": "100000000"},
    {"WAIT_FOR_SERVICE": "false", "CORS_ORIGINS": "*", "CLIENT_CONCURRENCY": "1", "GRACEFUL_TIMEOUT": "86400"},
    {"CORS_ORIGINS": "https://a.de,http://localhost:3000 , https://" + "b" * 60 + ".example.org"},
    {"MAX_CONCURRENCY": "8000", "ANSWER_TIMEOUT": "86400", "SERVICE": "my_service.internal-1:65535"},
    {"LOG_FORMAT": "", "MAX_BODY_BYTES": "", "REQUEST_ID_HEADER": "", "RATE_LIMIT": "0000000000005"},
)
# When nginx runs: a look at what start.sh wrote.
UP = "until curl --silent --fail http://127.0.0.1:8081/; do sleep 0.05; kill -0 $! || break; done"
LOOK = f"{UP}; nginx -t -c /etc/nginx/service/nginx.conf; kill $!; wait"


def in_container(image: str, script: str, *options: str) -> Result:
    """Run a script in a container as that of nginx is."""
    command = [*options_of(FOLDER, {}), *options, image, "/bin/sh", "-c", script]
    return docker("run", "--rm", "--network", "none", "--entrypoint", "", *command, seconds=120)


def shells(image: str) -> list[tuple[str, tuple[str, ...]]]:
    """Give the shells that must run it: the image's own and, where that is another one, Alpine's."""
    if "busybox" in in_container(image, "readlink -f /bin/sh").stdout:
        return [("/bin/sh", ())]
    return [("/bin/sh", ()), ("/busybox ash", ("--volume", f"{program('busybox', 'busybox')}:/busybox:ro"))]


def assigned(variables: Mapping[str, str]) -> str:
    """Write variables for `env`."""
    return " ".join(shlex.quote(f"{name}={value}") for name, value in variables.items())


def rounds() -> list[dict[str, str]]:
    """Give all bad values in as few starts as it takes: one value of each variable at a time."""
    by_name: dict[str, list[str]] = {}
    for name, value in BAD:
        by_name.setdefault(name, []).append(value)
    return [
        {name: values[number] for name, values in by_name.items() if number < len(values)}
        for number in range(max(map(len, by_name.values())))
    ]


def check_refused(variables: Mapping[str, str], said: list[str]) -> None:
    """Each variable has one full sentence, with its value."""
    told = {line.split()[3]: line for line in said}
    assert len(told) == len(said)
    assert told.keys() == variables.keys(), (variables, said)
    for name, value in variables.items():
        shown = re.escape(re.sub(r"[^ -~]", "?", value)[:20]).replace(r"\?", r"\?+")
        sentence = rf"The environment variable {name} is '{shown}.*': [^\n]+\."
        assert re.fullmatch(sentence, told[name]), (name, value, told[name])


@pytest.fixture
def plain(composed: Path) -> str:  # noqa: ARG001 - it brings the image
    """An image with nginx of any version."""
    return PLAIN


def test_bad_values(plain: str) -> None:
    """Each is refused with one full sentence that names the variable and the value; nothing is written."""
    for shell, options in shells(plain):
        starts = (f'env {assigned(one)} {shell} {START[1]} 2>&1; echo "=$?"; ls -A /tmp\n' for one in rounds())
        parts = in_container(plain, "".join(starts), *options).stdout.split("=1\n")
        assert parts.pop() == ""
        for variables, said in zip(rounds(), parts, strict=True):
            check_refused(variables, said.splitlines())


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ({"MAX_BODY_BYTES": "200000000"}, ()),
        ({"MAX_CONCURRENCY": "4000"}, ("--ulimit", "nofile=4096:4096")),
    ],
    ids=["space", "files"],
)
def test_what_the_container_does_not_have(plain: str, variables: dict[str, str], options: tuple[str, ...]) -> None:
    """A limit that it could never keep is refused, with what there is."""
    started = in_container(plain, f"env {assigned(variables)} {START[0]} {START[1]} 2>&1", *options)
    assert started.returncode == 1
    check_refused(variables, started.stdout.splitlines())


def test_all_faults_at_once(plain: str) -> None:
    """Nobody has to start it five times."""
    variables = {**NUMBERS, "LOG_FORMAT": "x", "TRUSTED_PROXIES": "y", "SERVICE": "z"}
    said = in_container(plain, f"env {assigned(variables)} {' '.join(START)}")
    assert said.returncode == 1
    assert sorted(line.split()[3] for line in said.stderr.splitlines()) == sorted(variables)


def test_good_values(edge_image: str) -> None:
    """nginx takes what is written, without a warning."""
    for shell, options in shells(edge_image):
        script = "".join(f"env {assigned(variables)} {shell} {START[1]} & {LOOK}\n" for variables in GOOD)
        said = in_container(edge_image, script, *options)
        assert said.stderr.count("test is successful") == len(GOOD), said.stderr
        assert not re.search(r"\[(warn|alert|emerg)\]", said.stderr), said.stderr


def test_resolvers(edge_image: str, tmp_path: Path) -> None:
    """IPv6 servers are taken over, those with a zone are not; without any, a sentence says what is missing."""
    file = tmp_path / "resolv.conf"
    file.write_text("# x\nnameserver\t127.0.0.11\nnameserver ::1  \nnameserver fe80::1%eth0\noptions ndots:0\n")
    look = f"{START[0]} {START[1]} & {UP}; cat /tmp/nginx/http.conf; kill $!"
    said = in_container(edge_image, look, "--volume", f"{file}:/etc/resolv.conf:ro")
    assert re.search(r"^resolver 127\.0\.0\.11 \[::1\] +valid=", said.stdout, re.MULTILINE), said
    file.write_text("search example\n")
    said = in_container(edge_image, " ".join(START), "--volume", f"{file}:/etc/resolv.conf:ro")
    assert said.returncode == 1
    assert (
        said.stderr == "The file /etc/resolv.conf names no server that could be asked for the address of 'api:8000'.\n"
    )


def test_same_reserved_headers_as_the_service(plain: str) -> None:
    """What the service refuses as the name of the ID's header, nginx refuses as well."""
    source = (ROOT / TEMPLATE / "app/settings.py").read_text()
    block = source[source.index("HEADERS_WITH_A_MEANING") : source.index("_HOST_ENTRY")]
    names = re.findall(r"[a-z][a-z-]+(?=[ \"])", "".join(re.findall(r'"[a-z -]+"', block)))
    prefixes = re.findall(r'"([a-z-]+-)"', source[source.index("PREFIXES_WITH_A_MEANING =") :].splitlines()[0])
    assert len(names) > 25
    assert len(prefixes) > 4
    reserved = [*names, *(prefix + "x" for prefix in prefixes)]
    script = "".join(f"env REQUEST_ID_HEADER={name} {' '.join(START)} 2>/dev/null; echo $?\n" for name in reserved)
    assert in_container(plain, script).stdout.split() == ["1"] * len(reserved)


def test_refusal_ends_the_container(edge_image: str, composed: Path) -> None:
    """The container ends with 1, and Docker's log has the sentence."""
    edge = Edge(composed, edge_image, None, RATE_LIMIT="many")
    command = [*options_of(edge.folder, edge.variables), edge_image, *START]
    said = docker("run", "--rm", "--network", "none", *command)
    assert (said.returncode, said.stderr) == (
        1, "The environment variable RATE_LIMIT is 'many': it is a whole number from 1 to 1000000.\n")  # fmt: skip


def test_shellcheck() -> None:
    """The script has no fault that shellcheck knows."""
    said = run([program("shellcheck", "shellcheck"), FOLDER / "start.sh"], ROOT)
    assert said.stdout == ""


@pytest.mark.skipif(shutil.which("dash") is None, reason="No interpreter here: dash")
def test_syntax() -> None:
    """A shell of POSIX can read it."""
    assert run(["dash", "-n", FOLDER / "start.sh"], ROOT).returncode == 0
