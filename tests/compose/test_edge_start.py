"""start.sh: good values become a configuration that nginx finds nothing wrong with, bad ones a sentence each."""

import os
import re
import shlex
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

import pytest

from scripts.snapshot import ROOT, TEMPLATE
from tests.support.baking import Result, run
from tests.support.programs import program
from tests.support.stack import docker

from .edge import START, options_of

FOLDER = ROOT / TEMPLATE / "deploy/nginx"


def reserved() -> list[str]:
    """Give what the service refuses as the name of the ID's header."""
    source = (ROOT / TEMPLATE / "app/settings.py").read_text()
    block = source[source.index("HEADERS_WITH_A_MEANING") : source.index("PREFIXES_WITH_A_MEANING =")]
    names = re.findall(r"[a-z][a-z-]+(?=[ \"])", "".join(re.findall(r'"[a-z -]+"', block)))
    prefixes = re.findall(r'"([a-z-]+-)"', source[source.index("PREFIXES_WITH_A_MEANING =") :].splitlines()[0])
    assert len(names) > 25
    assert len(prefixes) > 4
    return [*names, *(prefix + "x" for prefix in prefixes)]


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
    *(("REQUEST_ID_HEADER", value) for value in ("Host", "X-Forwarded-For", "X_Request_ID", "a" * 65, *reserved())),
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
# Alpine's shell: the image's own, or that of this machine.
ASH = "$(case $(readlink -f /bin/sh) in *busybox) echo /bin/sh ;; *) echo /busybox ash ;; esac)"
# All bad values in as few starts as it takes: one value of each variable at a time.
BY_NAME = {name: [value for its, value in BAD if its == name] for name, _ in BAD}
ROUNDS = [
    {name: value for name, value in zip(BY_NAME, values, strict=True) if value is not None}
    for values in zip_longest(*BY_NAME.values())
]


def in_container(image: str, script: str, *options: str) -> Result:
    command = [*options_of(FOLDER, {}), *options, image, "/bin/sh", "-c", script]
    return docker("run", "--rm", "--network", "none", "--entrypoint", "", *command)


def check_refused(variables: Mapping[str, str], output: str) -> None:
    """Each variable has one full sentence, with its value."""
    said = output.splitlines()
    told = {line.split()[3]: line for line in said}
    assert len(told) == len(said)
    assert told.keys() == variables.keys(), (variables, said)
    for name, value in variables.items():
        shown = re.escape(re.sub(r"[^ -~]", "?", value)[:20]).replace(r"\?", r"\?+")
        sentence = rf"The environment variable {name} is '{shown}.*': [^\n]+\."
        assert re.fullmatch(sentence, told[name]), (name, value, told[name])


@pytest.fixture(params=["sh", pytest.param("busybox", marks=pytest.mark.full)])
def tools(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A PATH with this machine's shell and tools, or with those of Alpine, in which the script runs by default."""
    if request.param == "sh":
        return os.environ["PATH"]
    run([program("busybox", "busybox"), "--install", "-s", tmp_path], ROOT)
    return str(tmp_path)


def test_bad_values_are_refused_with_a_sentence_each(tools: str) -> None:
    """The script ends before it writes anything or starts nginx, so that no container is needed to see it."""

    def start(variables: dict[str, str]) -> Result:
        return run([shutil.which("sh", path=tools) or "", FOLDER / "start.sh"], ROOT, {"PATH": tools, **variables})

    with ThreadPoolExecutor(4) as pool:
        for variables, result in zip(ROUNDS, pool.map(start, ROUNDS), strict=True):
            assert (result.returncode, result.stdout) == (1, ""), variables
            check_refused(variables, result.stderr)


@pytest.mark.full
def test_limit_that_the_container_cannot_keep_is_refused_and_nothing_is_written(images: list[str]) -> None:
    cases = {"RATE_LIMIT": "many", "MAX_BODY_BYTES": "200000000", "MAX_CONCURRENCY": "4000"}
    starts = [f"env {name}={value} {' '.join(START)} 2>&1; echo =$?; ls -A /tmp" for name, value in cases.items()]
    said = in_container(images[0], "; ".join(starts), "--ulimit", "nofile=4096:4096").stdout.split("=1\n")
    assert said.pop() == ""
    for (name, value), sentence in zip(cases.items(), said, strict=True):
        check_refused({name: value}, sentence)


@pytest.mark.full
def test_nginx_accepts_the_configuration_of_good_values(images: list[str]) -> None:
    """Of each kind of nginx, and written by each shell, without a warning."""
    busybox = program("busybox", "busybox")
    for image, shell in zip(images, (ASH, "/bin/sh"), strict=False):
        starts = [shlex.join(["env", *(f"{name}={value}" for name, value in good.items())]) for good in GOOD]
        script = "".join(f"{start} {shell} {START[1]} & {LOOK}\n" for start in starts)
        said = in_container(image, script, "--volume", f"{busybox}:/busybox:ro")
        assert said.stderr.count("test is successful") == len(GOOD), said.stderr
        assert not re.search(r"\[(warn|alert|emerg)\]", said.stderr), said.stderr


@pytest.mark.full
def test_name_servers_are_those_of_the_container(images: list[str], tmp_path: Path) -> None:
    """IPv6 servers are taken over, those with a zone are not; without any, a sentence says what is missing."""
    file = tmp_path / "resolv.conf"
    file.write_text("# x\nnameserver\t127.0.0.11\nnameserver ::1  \nnameserver fe80::1%eth0\noptions ndots:0\n")
    look = f"{' '.join(START)} & {UP}; cat /tmp/nginx/http.conf; kill $!"
    said = in_container(images[0], look, "--volume", f"{file}:/etc/resolv.conf:ro")
    assert re.search(r"^resolver 127\.0\.0\.11 \[::1\] +valid=", said.stdout, re.MULTILINE), said
    file.write_text("search example\n")
    said = in_container(images[0], " ".join(START), "--volume", f"{file}:/etc/resolv.conf:ro")
    sentence = "The file /etc/resolv.conf names no server that could be asked for the address of 'api:8000'.\n"
    assert (said.returncode, said.stderr) == (1, sentence)


@pytest.mark.full
def test_shellcheck_finds_no_fault() -> None:
    assert run([program("shellcheck", "shellcheck"), FOLDER / "start.sh"], ROOT).stdout == ""
