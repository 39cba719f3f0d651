"""The guide's design on FastAPI: each request reads and parses the file."""

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from tests.servers import ENDPOINTS


def _hosts(path: Path) -> list[str]:
    """Read the two sections of the file in order."""
    found: dict[str, list[str]] = {"domainlist:": [], "iplist:": []}
    section = ""
    with path.open(encoding="utf-8") as lines:
        for raw in lines:
            line = raw.strip()
            if not line or line.startswith("#"):
                continue
            if line.lower() in found:
                section = line.lower()
            elif section:
                found[section] += [item.strip() for item in line.split(",") if item.strip()]
    return found["domainlist:"] + found["iplist:"]


def _url(protocol: str, host: str, port: str | None, path: str) -> str:
    return f"{protocol}://{host}:{port}{path}" if port else f"{protocol}://{host}{path}"


async def endpoints() -> dict[str, list[dict[str, Any]]]:
    """Return dictionaries, which FastAPI encodes as JSON."""
    path = Path(os.getenv("ENDPOINT_CONFIG_FILE", "config/endpoints.txt"))
    protocol, port = os.getenv("ENDPOINT_PROTOCOL", "https"), os.getenv("ENDPOINT_DEFAULT_PORT")
    api, socket = os.getenv("ENDPOINT_API_PATH", "/api/v1"), os.getenv("ENDPOINT_SOCKET_PATH", "")
    answer: dict[str, list[dict[str, Any]]] = {"api_endpoints": [], "socketio_endpoints": []}
    for priority, host in enumerate(_hosts(path)):
        url = _url(protocol, host, port, api)
        answer["api_endpoints"].append({"url": url, "priority": priority})
        url = _url(protocol, host, None if socket else port, socket)
        answer["socketio_endpoints"].append({"url": url, "priority": priority})
    return answer


app = FastAPI()
# The guide's function has no annotation; with ours, FastAPI would build a model of the answer.
app.add_api_route(ENDPOINTS, endpoints, methods=["GET"], response_model=None)
