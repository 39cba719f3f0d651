"""The whole description."""

from .... import __version__
from .components import errors, headers, parameters, security_schemes
from .parts import Node
from .paths import PREFIX, paths
from .schemas import schemas

_DESCRIPTION = """\
The endpoints of a service as JSON, kept up to date in the apps that use it.

Every answer to GET can be asked for by HEAD. Errors are problem documents (RFC 9457). A query
parameter that is not named here is passed over.
"""

_TAGS = {
    "list": "What apps ask for",
    "qr": "The list as a QR code",
    "operation": "What operators and their programs ask for",
    "page": "The operator's page",
}


def document(
    *, root: str = "", home: str = "/", prefix: str = PREFIX, guarded: bool = False
) -> Node:
    """Describe the HTTP interface.

    Args:
        root: The path that the application is mounted at, without a slash at its end.
        home: The dashboard's path below that, with a slash at its end.
        prefix: What precedes the paths of the configuration there.
        guarded: Whether tokens are set.

    Returns:
        An OpenAPI 3.1 document.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mop-config",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": root or "/"}],
        "tags": [{"name": name, "description": words} for name, words in _TAGS.items()],
        "security": [{"bearer": []}, {"basic": []}] if guarded else [],
        "paths": paths(home, prefix),
        "components": {
            "schemas": schemas(),
            "headers": headers(),
            "parameters": parameters(),
            "responses": errors(),
            "securitySchemes": security_schemes(),
        },
    }
