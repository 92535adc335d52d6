"""start.sh: valid values become a valid nginx configuration, invalid ones an error message each."""

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

from .edge import START, run_options

FOLDER = ROOT / TEMPLATE / "deploy/nginx"


def reserved_headers() -> list[str]:
    """Return the names that the service rejects as REQUEST_ID_HEADER."""
    source = (ROOT / TEMPLATE / "app/settings.py").read_text()
    block = source[source.index("RESERVED_HEADERS") : source.index("RESERVED_PREFIXES =")]
    names = re.findall(r"[a-z][a-z-]+(?=[ \"])", "".join(re.findall(r'"[a-z -]+"', block)))
    prefixes = re.findall(r'"([a-z-]+-)"', source[source.index("RESERVED_PREFIXES =") :].splitlines()[0])
    assert len(names) > 25
    assert len(prefixes) > 4
    return [*names, *(prefix + "x" for prefix in prefixes)]


HOSTILE = (";", "x; return 200 evil", "$host", "${x}", "a\nb", "a;\n}", "{", "}", "'", '"', "\\", "`id`", "$(id)",
           "#", "*", " ", "\t", "é", "\x1b[31m", "-1", "1e3", "0x10", "99999999999999", "+5", "5 5", "1.5",
           "%s")  # fmt: skip
NUMBERS = {"MAX_BODY_BYTES": "1099511627777", "RATE_LIMIT": "0", "MAX_CONCURRENCY": "8001", "ANSWER_TIMEOUT": "86401",
           "CLIENT_CONCURRENCY": "0", "GRACEFUL_TIMEOUT": "1"}  # fmt: skip
INVALID: tuple[tuple[str, str], ...] = (
    *((name, value) for name in NUMBERS for value in (*HOSTILE, NUMBERS[name])),
    *((name, value) for name in ("LOG_FORMAT", "REQUEST_ID_TRUST", "WAIT_FOR_SERVICE")
      for value in (*HOSTILE, "JSON", "always ")),
    *(("CORS_ORIGINS", value) for value in HOSTILE if value not in {"*", " "}),
    *(("CORS_ORIGINS", value) for value in ("a.de", "https://a.de/", "https://a b", "http://", "https://a.de;")),
    *(("REQUEST_ID_HEADER", value) for value in HOSTILE if value not in {"-1", "1e3", "0x10", "99999999999999"}),
    *(("REQUEST_ID_HEADER", value) for value in ("Host", "X-Forwarded-For", "X_Request_ID", "a" * 65)),
    *(("REQUEST_ID_HEADER", value) for value in reserved_headers()),
    *(("MASKED_QUERY", value) for value in HOSTILE if not re.fullmatch(r"[\w.+ -]+", value, re.ASCII) or "+" in value),
    *(("TRUSTED_PROXIES", value) for value in HOSTILE if value != " "),
    *(("TRUSTED_PROXIES", value) for value in ("10.0.0.0/33", "256.1.1.1", "1.2.3", "1.2.3.4.5", "01.2.3.4", "cafe",
                                               "::1::", "1:2:3:4:5:6:7:8:9", "::/129", "1:2:3:4:5:6:7::",
                                               "fe80::g", "a.de", "/", ":", ".",
                                               "10.0.0.1/", "10.0.0.0/8/8", "12345::", "10.0.0.1, ::1, nobody")),
    *(("SERVICE", value) for value in (*HOSTILE, "api", "api:", ":8000", "api:x", "http://api:8000", "api:8000/")),
)  # fmt: skip
VALID: tuple[Mapping[str, str], ...] = (
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
# Wait until nginx runs, then check the configuration that start.sh wrote.
WAIT_UNTIL_UP = "until curl --silent --fail http://127.0.0.1:8081/; do sleep 0.05; kill -0 $! || break; done"
CHECK = f"{WAIT_UNTIL_UP}; nginx -t -c /etc/nginx/service/nginx.conf; kill $!; wait"
# BusyBox's shell, as in Alpine: the image's own, or the one mounted from this machine.
ASH = "$(case $(readlink -f /bin/sh) in *busybox) echo /bin/sh ;; *) echo /busybox ash ;; esac)"
# As few starts as possible: each round has one invalid value of each variable.
BY_NAME = {name: [value for variable, value in INVALID if variable == name] for name, _ in INVALID}
ROUNDS = [
    {name: value for name, value in zip(BY_NAME, values, strict=True) if value is not None}
    for values in zip_longest(*BY_NAME.values())
]


def in_container(image: str, script: str, *options: str) -> Result:
    command = [*run_options(FOLDER, {}), *options, image, "/bin/sh", "-c", script]
    return docker("run", "--rm", "--network", "none", "--entrypoint", "", *command)


def check_messages(variables: Mapping[str, str], output: str) -> None:
    """Check that the output has one full sentence for each variable, with its value."""
    lines = output.splitlines()
    messages = {line.split()[3]: line for line in lines}
    assert len(messages) == len(lines)
    assert messages.keys() == variables.keys(), (variables, lines)
    for name, value in variables.items():
        shown = re.escape(re.sub(r"[^ -~]", "?", value)[:20]).replace(r"\?", r"\?+")
        sentence = rf"The environment variable {name} is '{shown}.*': [^\n]+\."
        assert re.fullmatch(sentence, messages[name]), (name, value, messages[name])


@pytest.fixture(params=["sh", pytest.param("busybox", marks=pytest.mark.full)])
def tools(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A PATH with this machine's shell and tools, or with BusyBox as in Alpine, the default image."""
    if request.param == "sh":
        return os.environ["PATH"]
    run([program("busybox", "busybox"), "--install", "-s", tmp_path], ROOT)
    return str(tmp_path)


def test_invalid_values_are_rejected_with_a_message_each(tools: str) -> None:
    """The script exits before it writes files or starts nginx, so this needs no container."""

    def start(variables: dict[str, str]) -> Result:
        return run([shutil.which("sh", path=tools) or "", FOLDER / "start.sh"], ROOT, {"PATH": tools, **variables})

    with ThreadPoolExecutor(4) as pool:
        for variables, result in zip(ROUNDS, pool.map(start, ROUNDS), strict=True):
            assert (result.returncode, result.stdout) == (1, ""), variables
            check_messages(variables, result.stderr)


@pytest.mark.full
def test_limit_beyond_the_container_is_rejected_and_no_file_is_written(images: list[str]) -> None:
    cases = {"RATE_LIMIT": "many", "MAX_BODY_BYTES": "200000000", "MAX_CONCURRENCY": "4000"}
    starts = [f"env {name}={value} {' '.join(START)} 2>&1; echo =$?; ls -A /tmp" for name, value in cases.items()]
    outputs = in_container(images[0], "; ".join(starts), "--ulimit", "nofile=4096:4096").stdout.split("=1\n")
    assert outputs.pop() == ""
    for (name, value), sentence in zip(cases.items(), outputs, strict=True):
        check_messages({name: value}, sentence)


@pytest.mark.full
def test_nginx_accepts_the_configuration_of_valid_values(images: list[str]) -> None:
    """With each version of nginx, written by each shell, without warnings."""
    busybox = program("busybox", "busybox")
    for image, shell in zip(images, (ASH, "/bin/sh"), strict=False):
        starts = [shlex.join(["env", *(f"{name}={value}" for name, value in valid.items())]) for valid in VALID]
        script = "".join(f"{start} {shell} {START[1]} & {CHECK}\n" for start in starts)
        result = in_container(image, script, "--volume", f"{busybox}:/busybox:ro")
        assert result.stderr.count("test is successful") == len(VALID), result.stderr
        assert not re.search(r"\[(warn|alert|emerg)\]", result.stderr), result.stderr


@pytest.mark.full
def test_name_servers_are_read_from_resolv_conf(images: list[str], tmp_path: Path) -> None:
    """IPv6 servers are used, those with a zone are not; without any server, start.sh exits with a message."""
    file = tmp_path / "resolv.conf"
    file.write_text("# x\nnameserver\t127.0.0.11\nnameserver ::1  \nnameserver fe80::1%eth0\noptions ndots:0\n")
    script = f"{' '.join(START)} & {WAIT_UNTIL_UP}; cat /tmp/nginx/http.conf; kill $!"
    result = in_container(images[0], script, "--volume", f"{file}:/etc/resolv.conf:ro")
    assert re.search(r"^resolver 127\.0\.0\.11 \[::1\] +valid=", result.stdout, re.MULTILINE), result
    file.write_text("search example\n")
    result = in_container(images[0], " ".join(START), "--volume", f"{file}:/etc/resolv.conf:ro")
    sentence = "The file /etc/resolv.conf has no usable nameserver: nginx needs one to resolve 'api:8000'.\n"
    assert (result.returncode, result.stderr) == (1, sentence)


@pytest.mark.full
def test_shellcheck_has_no_findings() -> None:
    assert run([program("shellcheck", "shellcheck"), FOLDER / "start.sh"], ROOT).stdout == ""
