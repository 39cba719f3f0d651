"""The OpenAPI 3.1 description of the HTTP interface, read from ``openapi.json``.

The file describes the application of ``create_app`` at the root of its host. ``document`` adapts
it to the mount point, the paths of the routes, and whether access tokens are set.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from ..service import Places

_FILE = Path(__file__).with_name("openapi.json")
#: Paths of the routes in the file.
_PLACES = Places()
#: The dashboard's paths in the file. Of the other paths, only those below the prefix of the
#: configuration differ between applications.
_DASHBOARD = frozenset({_PLACES.home, f"{_PLACES.home}static/{{name}}"})
_TOKENS: tuple[dict[str, list[str]], ...] = ({"bearer": []}, {"basic": []})


def document(*, root: str = "", places: Places = _PLACES, guarded: bool = False) -> dict[str, Any]:
    """Return the description of an application's routes.

    Args:
        root: Path that the application is mounted at, without a slash at its end.
        places: Paths of the routes below ``root``.
        guarded: Whether access tokens are configured.

    Returns:
        An OpenAPI 3.1 document, to be read and not to be changed.
    """
    described = _load()
    return {
        **described,
        "servers": [{"url": root or "/"}],
        "security": list(_TOKENS) if guarded else [],
        "paths": {
            _placed(path, places): operations for path, operations in described["paths"].items()
        },
    }


@cache
def _load() -> dict[str, Any]:
    described: dict[str, Any] = json.loads(_FILE.read_bytes())
    return described


def _placed(path: str, places: Places) -> str:
    if path in _DASHBOARD:
        return places.home + path.removeprefix(_PLACES.home)
    if path.startswith(f"{_PLACES.prefix}/"):
        return places.prefix + path.removeprefix(_PLACES.prefix)
    return path
