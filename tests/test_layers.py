"""The layers of the package in one ordered tuple, and the import rules between them."""

import ast
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "mop_config"

#: The layers from the bottom up. A module imports only its own layer and the layers before it.
#: A layer is a package with all that is in it, or a single module of a package.
LAYERS = (
    "errors",
    "signals",
    "files",
    "model",
    "qr",
    "net",
    "health",
    "server.logs",
    "server.settings",
    "server.parsing",
    "server.sources",
    "server.serving",
    "server.state",
    "server.reload",
    "server.auth",
    "server.monitor",
    "server.status",
    "server.service",
    "server.export",
    "server.web",
    "server.gunicorn",
    "server",
    "client.keywords",
    "client.pool",
    "client.transport",
    "client.lists",
    "client.updates",
    "client.background",
    "client.attempts",
    "client.manager",
    "client.async_manager",
    "client.sync_manager",
    "client.sockets",
    "client.testing",
    "client",
    "pytest_plugin",
    "cli",
)

#: Packages and modules that import no module that waits: no clock, thread, socket or Flask.
PURE = (
    "model",
    "qr",
    "health.state",
    "server.parsing",
    "server.serving.answers",
    "server.monitor.schedule",
    "server.status.document",
    "server.web.dashboard.viewmodel",
    "server.status.translations",
    "client.pool.failover",
    "client.pool.member",
    "client.pool.offline",
    "client.pool.policy",
    "client.pool.pool",
    "client.lists.rules",
)
#: Modules of the standard library and others that wait or read the clock.
WAITING = {"time", "threading", "socket", "subprocess", "flask", "watchdog", "random", "asyncio"}

#: The only packages that may import Flask, gunicorn and the client's HTTP library.
ONLY_IN = {"flask": ("server.web",), "gunicorn": ("server.gunicorn",)}

#: Upward imports and duplicate class names, allowed until their modules are split.
TO_BE_SPLIT: set[tuple[str, str]] = set()
TWICE: set[str] = set()

FILES = sorted(ROOT.rglob("*.py"))
DOCS = ROOT.parent / "docs"
ARCHITECTURE = DOCS / "architecture.md"
INDEX = DOCS / "decisions" / "README.md"
#: The first and the last line around the picture of the layers.
BEGIN, END = "<!-- layers: begin -->\n", "<!-- layers: end -->"


def module_name(path: Path) -> str:
    """Return the dotted name of a file's module, without the package's own name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in FILES}


@cache
def imports(path: Path) -> frozenset[str]:
    """Return the absolute names that a file imports anywhere in its code."""
    package = ("mop_config", *path.relative_to(ROOT).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def own_modules(path: Path) -> Iterator[str]:
    """Yield the modules of this package that a file imports from."""
    for name in imports(path):
        head, _, rest = name.partition(".")
        if head != "mop_config":
            continue
        if rest not in MODULES:
            rest = rest.rpartition(".")[0]
        yield rest


def layer(module: str) -> str:
    """Return the layer of a module: the longest layer name that the module's name begins with."""
    names = [name for name in LAYERS if f"{module}.".startswith(f"{name}.")]
    return max(names, key=len, default="")


def summary(module: str) -> str:
    """Return the first sentence of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8")))
    first = (docstring or "").split("\n\n")[0].strip()
    return re.split(r"(?<=\.)\s", " ".join(first.split()))[0]


def layers_picture() -> str:
    """Render the layers of ``docs/architecture.md``: each layer and its first sentence."""
    lines: list[str] = []
    part = ""
    for name in LAYERS:
        head = name.split(".")[0]
        new = {"server": "the server", "client": "the client", "cli": "the command line"}.get(
            head, "shared by all parts"
        )
        if new != part:
            part = new
            lines += [*([""] if lines else []), part]
        text = summary(name) + (" (pure)" if name in PURE else "")
        first, *more = textwrap.wrap(text, 76, break_long_words=False)
        lines.append(f"  {name.replace('.', '/'):24}{first}")
        lines += [f"  {'':24}{line}" for line in more]
    return "\n".join(("```text", *lines, "```"))


def test_the_picture_of_the_layers_is_true() -> None:
    """If this fails, run ``.venv/bin/python -m tests.test_layers``, which renders the picture."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    assert text.split(BEGIN)[1].split(END)[0].strip() == layers_picture()


@pytest.mark.parametrize(
    "page", [ARCHITECTURE, *sorted((DOCS / "decisions").glob("*.md"))], ids=lambda path: path.name
)
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    """Paths are relative to the package or to the project."""
    text = page.read_text(encoding="utf-8")
    names = re.findall(r"`([\w./-]+(?:\.(?:py|json|md|yml|environment)|/))`", text)
    missing = {n for n in names if not (ROOT / n).exists() and not (ROOT.parent / n).exists()}
    assert missing - {"cli/NAME.py"} == set()
    if page == ARCHITECTURE:
        assert len(names) > 40


def test_the_index_names_each_decision() -> None:
    """The index has a link to each page."""
    links = re.findall(r"\]\((\d[^)]*)\)", INDEX.read_text(encoding="utf-8"))
    assert links == sorted(path.name for path in INDEX.parent.glob("[0-9]*.md"))


def test_each_module_has_a_layer() -> None:
    """Each module belongs to a layer of the tuple."""
    assert {name for name in MODULES if not layer(name)} == {"", "__main__"}
    assert [name for name in LAYERS if name not in MODULES] == []


@pytest.mark.parametrize("module", [name for name in MODULES if layer(name)])
def test_a_module_imports_only_its_own_layer_and_those_before(module: str) -> None:
    """Imports go down only. Every module may read the package itself (version, lazy names)."""
    allowed = {"", *LAYERS[: LAYERS.index(layer(module)) + 1]}
    if layer(module).startswith("client"):
        allowed = {name for name in allowed if not name.startswith("server")}
    found = {name: layer(name) for name in own_modules(MODULES[module])}
    wrong = {name for name, where in found.items() if where not in allowed}
    assert {name for name in wrong if (module, name) not in TO_BE_SPLIT} == set()


@pytest.mark.parametrize("name", LAYERS)
def test_no_circle_stands_inside_a_layer(name: str) -> None:
    """The modules of a layer have no import cycle."""
    inside = {module for module in MODULES if layer(module) == name}
    left = {
        module: {other for other in own_modules(MODULES[module]) if other in inside} - {module}
        for module in inside
    }
    while ready := [module for module, others in left.items() if not others & left.keys()]:
        for module in ready:
            del left[module]
    assert left == {}


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_imports_nothing_that_waits(name: str) -> None:
    """Modules that decide get the time and the outcome of I/O as arguments."""
    chosen = [module for module in MODULES if f"{module}.".startswith(f"{name}.")]
    assert chosen
    for module in chosen:
        assert not {found.split(".")[0] for found in imports(MODULES[module])} & WAITING


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_framework_stays_in_its_package(library: str) -> None:
    """Flask and gunicorn are imported in one package each."""
    users = {
        module
        for module, path in MODULES.items()
        if any(found.split(".")[0] == library for found in imports(path))
    }
    homes = ONLY_IN[library]
    strangers = {user for user in users if not any(f"{user}.".startswith(f"{h}.") for h in homes)}
    assert strangers == set()


def test_no_class_name_stands_twice() -> None:
    """Each class name is defined once in the package."""
    seen: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                seen.setdefault(node.name, []).append(module)
    assert {
        name: where for name, where in seen.items() if len(where) > 1 and name not in TWICE
    } == {}


def test_importing_the_package_does_not_import_flask() -> None:
    """Importing the package does not load the server."""
    code = "import sys, mop_config; sys.exit('flask' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_the_client_does_not_import_flask() -> None:
    """Importing the client does not load the server."""
    code = "import sys, mop_config.client; sys.exit('flask' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_all_names_of_the_client_need_no_extra() -> None:
    """``import *`` works without the extras; the Socket.io clients are imported by name."""
    code = (
        "import sys\n"
        "for name in ('socketio', 'joserfc', 'segno', 'PIL'): sys.modules[name] = None\n"
        "from mop_config.client import *\n"
        "print(EndpointManager.__name__, Policy.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "EndpointManager Policy\n"


def test_create_app_is_handed_on() -> None:
    """The package imports the names of the contract lazily."""
    import mop_config
    from mop_config.server.web.app import create_app, init_app

    assert mop_config.create_app is create_app
    assert mop_config.init_app is init_app


def test_the_command_line_starts_without_what_few_commands_need() -> None:
    """The command line imports heavy libraries only when a command needs them."""
    heavy = {"flask", "gunicorn", "httpx2", "requests", "segno", "PIL", "joserfc", "socketio"}
    code = (
        "import sys\nfrom mop_config.cli import cli\n"
        "for name in cli.list_commands(None): cli.get_command(None, name)\n"
        f"sys.exit(str({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr == "set()\n"


if __name__ == "__main__":
    old = ARCHITECTURE.read_text(encoding="utf-8")
    before, _, rest = old.partition(BEGIN)
    ARCHITECTURE.write_text(
        f"{before}{BEGIN}{layers_picture()}\n{END}{rest.partition(END)[2]}", encoding="utf-8"
    )
