"""Data runs one way: the import rule of the package."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "mop_config"

#: Each part of the package, and the parts that it may import.
_GROUND = {"errors", "address", "model", "payload", "signals", "files"}
_SIGNING = {"keys", "signing"}
_HEALTH = {"health", "faults", "resolve", "tls", "jobs", "connect", "probe", "qr", "qr_text"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "signals": set(),
    "health": set(),
    "faults": set(),
    "tls": set(),
    "address": {"errors"},
    "model": {"address", "errors"},
    "payload": {"model", "address", "errors"},
    "keys": {"errors"},
    "signing": {"errors", "address", "model", "payload", "keys"},
    "resolve": {"address", "faults"},
    "connect": {"resolve"},
    "jobs": {"address", "errors", "model"},
    "probe": _GROUND | {"health", "faults", "jobs", "resolve", "tls", "connect", "__init__"},
    "qr_text": {"payload", "model", "errors"},
    "qr": _GROUND | {"qr_text"},
    "server": _GROUND | _SIGNING | _HEALTH | {"__init__"},
    "client": _GROUND | _SIGNING | _HEALTH,
    "cli": _GROUND | _SIGNING | _HEALTH | {"server", "client", "__init__"},
    # create_app is handed on lazily, by __getattr__.
    "__init__": {"model", "server"},
    "__main__": {"cli"},
}

#: Modules without clock, thread, socket or Flask.
PURE = [
    "address.py",
    "model.py",
    "payload.py",
    "keys.py",
    "signing.py",
    "qr_text.py",
    "health.py",
    "jobs.py",
    "client/policy.py",
    "client/member.py",
    "client/pool.py",
    "client/network.py",
    "client/failover.py",
    "client/update.py",
    "client/target.py",
    "server/parse.py",
    "server/build.py",
    "server/render.py",
    "server/verdict.py",
    "server/snapshot.py",
    "server/answer.py",
    "server/settle.py",
    "server/sightings.py",
    "server/ledger.py",
    "server/status.py",
    "server/entries.py",
    "server/probing.py",
    "server/outbox.py",
    "server/targets.py",
    "server/gauges.py",
    "server/openapi/parts.py",
    "server/openapi/schemas.py",
    "server/openapi/paths.py",
    "server/openapi/document.py",
    "server/access.py",
    "server/tokens.py",
    "server/security.py",
    "server/masking.py",
    "server/page.py",
    "server/texts.py",
    "server/texts_zh.py",
    "server/problems.py",
    "cli/following.py",
]
WORLDLY = {"time", "threading", "socket", "subprocess", "flask", "watchdog", "random", "asyncio"}


def imports(path: Path) -> set[str]:
    """The absolute names of the modules that a file imports, wherever in it."""
    package = ("mop_config", *path.relative_to(ROOT).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return found


def parts(path: Path) -> set[str]:
    """The parts of the package that a file imports from; its attributes are ``__init__``'s."""
    found = set()
    for name in imports(path):
        head, _, rest = name.partition(".")
        part = rest.split(".")[0]
        if head == "mop_config" and part:
            is_module = (ROOT / f"{part}.py").exists() or (ROOT / part).is_dir()
            found.add(part if is_module else "__init__")
    return found


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    """Every module of a part imports from the parts that its part may import, and itself."""
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert parts(path) <= ALLOWED[part] | {part}


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_does_not_touch_the_world(name: str) -> None:
    """What decides has no clock, thread, socket or Flask in it."""
    assert not {module.split(".")[0] for module in imports(ROOT / name)} & WORLDLY


def test_importing_the_package_does_not_import_flask() -> None:
    """A program that only wants the model pays nothing for the server."""
    code = "import sys, mop_config; sys.exit('flask' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_the_client_does_not_import_flask() -> None:
    """An app that only calls servers carries no server."""
    code = "import sys, mop_config.client; sys.exit('flask' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_create_app_is_handed_on() -> None:
    """The names of the contract are there, lazily."""
    import mop_config
    from mop_config.server.app import create_app, init_app

    assert mop_config.create_app is create_app
    assert mop_config.init_app is init_app


def test_the_command_line_starts_without_what_few_commands_need() -> None:
    """A script that calls commands often waits for none of it."""
    heavy = {"flask", "gunicorn", "httpx2", "requests", "segno", "PIL", "joserfc", "socketio"}
    code = (
        "import sys\nfrom mop_config.cli import cli\n"
        "for name in cli.list_commands(None): cli.get_command(None, name)\n"
        f"sys.exit(str({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr == "set()\n"
