"""Tests of the documents: their commands and Python blocks run as printed."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import NamedTuple

import pytest

from mop_config import qr
from mop_config.client import EndpointManager
from mop_config.client.pool.member import EndpointState
from mop_config.server.parsing.problems import Code
from mop_config.server.parsing.render import EMPTY_BODY, render
from mop_config.server.settings import EtcdSettings, ProcessSettings, Settings, UrlRules
from mop_config.server.settings.variables import Variable, declared

from .client.handmade import MISSING, Answer, Asked, handmade, wire
from .client.socket_server import socket_server
from .conftest import GUIDE_JSON, SAMPLE
from .servers import ENDPOINTS, ROOT, Server

README = (ROOT / "README.md").read_text()
GUIDES = [ROOT / "docs" / "guide.md", ROOT / "docs" / "guide.zh.md"]
#: The pages whose console and Python blocks run. The guides' Python is one program, run below.
PAGES = [path.read_text() for path in sorted((ROOT / "docs").glob("*.md")) if path not in GUIDES]


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a Markdown text in one language."""
    fences = re.split(r"^```(\w*)\n", text, flags=re.MULTILINE)
    return [fences[i + 1] for i in range(1, len(fences), 4) if fences[i] == language]


class Command(NamedTuple):
    """A line after a prompt, and the output that is printed below it."""

    line: str
    output: str


def commands(block: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        yield Command(line, output)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a folder with the files that a clone would have, and our packages."""
    folder = tmp_path / "clone"
    folder.mkdir()
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listing.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
            (folder / name).chmod((ROOT / name).stat().st_mode)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *arguments], cwd=folder, check=True)
    # The environment that `make` would install, without an installation for each test.
    environment = folder / ".venv"
    (environment / "bin").mkdir(parents=True)
    for program in Path(sys.executable).parent.iterdir():
        (environment / "bin" / program.name).symlink_to(program)
    (environment / "bin" / "activate").unlink(missing_ok=True)
    (environment / "bin" / "activate").write_text(f"PATH={Path(sys.executable).parent}:$PATH\n")
    for stamp in ("serve.stamp", "test.stamp"):
        (environment / stamp).touch()
    return folder


def typed(shell: "subprocess.Popen[str]", line: str) -> str:
    """Return the output of a shell for a line."""
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(f"{line}\necho; echo '<end>'\n")
    shell.stdin.flush()
    return "".join(iter(shell.stdout.readline, "<end>\n")).strip()


def test_every_command_of_the_documents_runs_as_printed(clone: Path, tmp_path: Path) -> None:
    """The commands of the README and then of each page run in one shell with one server."""
    serve, test, *tour = [
        list(commands(block)) for page in (README, *PAGES) for block in blocks(page, "console")
    ]
    assert [command.line for command in serve + test] == ["make serve", "make test"]
    environ = {"PORT": "0", "PYTHONPATH": str(clone)}
    server = Server(["make", "-C", str(clone), "serve"], tmp_path, environ)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ENDPOINT_")}
    with subprocess.Popen(
        ["bash"],
        cwd=clone,
        env={**clean, "PYTHONPATH": str(clone)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        try:
            server.wait_until_up(workers=2)
            for command in [command for block in tour for command in block]:
                line = command.line.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
                pattern = re.escape(command.output.strip()).replace(r"\.\.\.", ".*")
                # A second is enough for an edit, except on a busy machine.
                for _ in range(10 if line.startswith("sleep 1; curl ") else 1):
                    output = typed(shell, line)
                    if re.fullmatch(pattern, output):
                        break
                else:
                    pytest.fail(f"{command}: {output}")
        finally:
            shell.stdin.close()
            server.stop()
    assert "Traceback" not in server.log


#: Runs each block of a JSON array as a program, in a fork that has the client imported.
_RUN_BLOCKS = """
import json, os, sys
import mop_config.client
for block in json.load(sys.stdin):
    pid = os.fork()
    if pid == 0:
        exec(compile(block, "<block>", "exec"), {"__name__": "__main__"})
        sys.exit()
    if os.waitpid(pid, 0)[1]:
        sys.exit(f"this block failed:\\n{block}")
"""


def test_every_python_block_of_the_documents_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block runs alone, against servers of the test in place of the named servers."""
    monkeypatch.setenv("ENDPOINT_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    listed: list[str] = []

    def answer(request: Asked) -> Answer:
        if request.path == ENDPOINTS:
            return 200, {}, wire(listed)
        known = request.path.endswith(("/users", "/health", "/dns-query"))
        return (200, {"Content-Type": "application/json"}, b"[]") if known else MISSING

    with (
        handmade(answer) as primary,
        handmade(answer) as backup,
        handmade(answer) as config,
        socket_server(tmp_path, "socket") as socket,
    ):
        servers = {
            "https://api-primary.example.com": primary.url,
            "https://api-backup.example.com": backup.url,
            "https://config.example.com": config.url,
            "https://socket-primary.example.com": socket.url,
        }
        listed += [f"{primary.url}/api/v1", f"{backup.url}/api/v1"]
        text = json.dumps([block for page in (README, *PAGES) for block in blocks(page, "python")])
        for name, url in servers.items():
            text = text.replace(name, url)
        assert "example.com" not in text
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", _RUN_BLOCKS],
            cwd=ROOT,
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert "Traceback" not in result.stderr
    # The client races a slow dial with a dial to the backup.
    assert primary.count("/api/v1/users") + backup.count("/api/v1/users") >= 2


def test_the_readme_is_short() -> None:
    """The README has at most 300 lines; the pages have the details."""
    assert len(README.splitlines()) <= 300


def test_no_block_of_the_documents_is_passed_over() -> None:
    """The number of blocks that run never falls."""
    consoles = [block for page in (README, *PAGES) for block in blocks(page, "console")]
    programs = [block for page in (README, *PAGES) for block in blocks(page, "python")]
    assert len(consoles) >= 12
    assert len(programs) >= 12


def test_the_endpoint_file_of_the_readme_is_a_good_one() -> None:
    """The file of the README has no problems."""
    (text,) = [block for block in blocks(README, "") if "ApiList:" in block]
    rendering = render(text.encode(), UrlRules(), EMPTY_BODY)
    assert rendering.problems == ()
    assert (rendering.api_count, rendering.socketio_count) == (7, 7)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_the_guides_show_the_sample_and_its_answer(guide: Path) -> None:
    """In both languages, the file gives the JSON below it."""
    text = guide.read_text()
    (file,) = [block for block in blocks(text, "") if "DomainList:" in block]
    health, answer, *codes = blocks(text, "json")
    assert json.loads(render(file.encode(), UrlRules(), EMPTY_BODY).body) == GUIDE_JSON
    assert json.loads(answer) == GUIDE_JSON
    assert json.loads(health)["status"] == "healthy"
    read = [qr.parse(code) for code in codes]
    assert [len(data.api_endpoints or ()) for data in read] == [1, 2, 2]
    assert {data.room_id for data in read} == {"room123"}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_the_python_of_the_guides_runs(guide: Path, tmp_path: Path) -> None:
    """The blocks run in order, as one program, against servers of the test."""
    text = guide.read_text()
    code = blocks(text, "json")[3]
    with handmade(lambda request: (200, {}, wire(listed))) as server:
        listed = [f"{server.url}/a", f"{server.url}/b"]
        program = [f"text = {code!r}", "token = None", *blocks(text, "python"), "manager.close()"]
        source = re.sub(r"https://[a-z-]+\.example\.com", server.url, "\n".join(program))
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", source],
            cwd=ROOT,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 0, result.stderr
    assert "joining room123" in result.stdout


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_the_guides_name_what_the_client_has(guide: Path) -> None:
    """Each name of the Python client in the table beside the Dart names exists."""
    rows = re.findall(r"^\| `[^|]*\| (`[^|]*)\|", guide.read_text(), re.MULTILINE)
    names = re.findall(r"\b(manager|endpoint)\.(\w+)", "".join(rows))
    assert len(names) >= 18
    owners = {"manager": EndpointManager, "endpoint": EndpointState}
    for owner, name in names:
        members = {*dir(owners[owner]), *getattr(owners[owner], "__annotations__", ())}
        assert name in members, f"{owner}.{name}"
    for name in re.findall(r"mop_config\.qr\.(\w+)", "".join(rows)):
        assert callable(getattr(qr, name))


def test_no_document_signals_processes_by_name() -> None:
    """Signals by name would end programs of other users."""
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        fenced = re.findall(r"^```\w*\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
        for block in fenced:
            assert not re.search(r"\b(pidof|pgrep|pkill|killall)\b", block), path


def test_the_guides_say_the_same() -> None:
    """Both languages have the same headings and blocks."""
    shapes = [
        re.findall(r"^(#+|```\w*|\||- )", guide.read_text(), re.MULTILINE) for guide in GUIDES
    ]
    assert shapes[0] == shapes[1]


def test_every_problem_code_is_documented() -> None:
    """Each code is in the table of its severity."""
    text = (ROOT / "docs" / "problems.md").read_text()
    documented = re.findall(r"^\| `([a-z0-9-]+)` \|", text, re.MULTILINE)
    assert sorted(documented) == sorted(Code)
    errors = text.index("## Errors")
    for code in Code:
        row = text.index(f"| `{code}` |")
        if code not in {Code.SETTING, Code.NO_HOOKS, Code.STATE_FOLDER, Code.TOKENS_LINE}:
            assert (row < errors) == (code.severity == "warning")


#: Defaults that the table shows in other words.
DEFAULTS = {
    "ENDPOINT_STATE_DIR": "`$STATE_DIRECTORY`, else Flask's instance folder",
    "ENDPOINT_MAX_WAITERS": "asgi: 10000; gthread: threads − 2; sync: 0",
    "ENDPOINT_SIGNING_TTL": "`7d`",
}


def shown_default(variable: Variable) -> str:
    """The default of a variable as the table shows it."""
    default = variable.default
    if isinstance(default, (int, float)):
        return DEFAULTS.get(variable.name, f"`{int(default)}`")
    return DEFAULTS.get(variable.name, f"`{default}`" if default else "")


def test_the_table_of_settings_is_that_of_the_declarations() -> None:
    """Every variable has one row with its name, default and meaning, and every row a variable."""
    variables = [
        variable
        for settings in (Settings, UrlRules, EtcdSettings, ProcessSettings)
        for _, variable in declared(settings)
    ]
    rows = {
        f"| `{variable.name}` | {shown_default(variable)} | {variable.help} |".replace(
            "|  |", "| |"
        )
        for variable in variables
    }
    section = README.split("## Settings\n")[1].split("\n## ")[0]
    assert {line for line in section.splitlines() if line.startswith("| `")} == rows


def test_a_text_of_each_documented_default_is_its_value() -> None:
    """The text of a default in the table, such as ``7d``, parses to the default's value."""
    assert (
        Settings.from_environ({"ENDPOINT_SIGNING_TTL": "7d"}).signing_ttl == Settings().signing_ttl
    )
    assert Settings.from_environ({}) == Settings()


def test_every_dependency_has_a_reason() -> None:
    """Each dependency has a reason on its page, and a lowest version where it is declared."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    required = config["options"]["install_requires"].split("\n")
    for extra in config["options.extras_require"].values():
        required += extra.split("\n")
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert set(groups) == {"test", "bench", "docs"}
    assert not set(groups) & set(config["options.extras_require"])
    for group in groups.values():
        required += [requirement for requirement in group if isinstance(requirement, str)]
    reasons = (ROOT / "docs" / "dependencies.md").read_text()
    for requirement in filter(None, map(str.strip, required)):
        if requirement.startswith("#"):
            continue
        name = re.match(r"[\w.\[\],-]+", requirement)
        assert name is not None
        assert name[0] in reasons, requirement
        assert ">=" in requirement, requirement


def test_links_between_documents_lead_somewhere() -> None:
    """Relative links name existing files and headings."""
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", path.read_text()):
            assert (path.parent / target).exists(), (path, target)


def test_the_sample_is_the_guides() -> None:
    """The sample file is the file of the documents."""
    assert json.loads(render(SAMPLE.read_bytes(), UrlRules(), EMPTY_BODY).body) == GUIDE_JSON
