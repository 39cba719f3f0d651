"""A Socket.io server that gives its name, echoes, and refuses or kicks clients by its manner."""

import asyncio
import json
import os
import sys
from typing import Any

# The clients of the package socketio import these, which would take most of the server's start.
sys.modules.update(dict.fromkeys(["aiohttp", "requests"]))  # type: ignore[arg-type]

import socketio  # noqa: E402

NAME = os.environ.get("SOCKET_NAME", "")
PATH = os.environ.get("SOCKET_PATH", "")
#: ``refuse`` rejects every connection; ``kick`` accepts a connection and closes it 0.1 s later.
MANNER = os.environ.get("SOCKET_MANNER", "")
TRANSPORTS = os.environ.get("SOCKET_TRANSPORTS", "").split(",")

server = socketio.AsyncServer(
    async_mode="asgi",
    transports=TRANSPORTS if TRANSPORTS != [""] else None,
    cors_allowed_origins="*",
)
seen: list[dict[str, Any]] = []
#: Set by a request of ``/release``; the event ``later`` waits for it before its answer.
released = asyncio.Event()


async def connect(sid: str, environ: dict[str, Any], auth: Any = None) -> None:
    seen.append({"host": environ.get("HTTP_HOST"), "auth": auth})
    if MANNER == "refuse":
        raise socketio.exceptions.ConnectionRefusedError("not you")


async def who(sid: str) -> str:
    return NAME


async def echo(sid: str, data: Any) -> Any:
    return data


async def later(sid: str) -> str:
    released.clear()
    await released.wait()
    return NAME


async def leave(sid: str) -> None:
    await server.disconnect(sid)


for _namespace in ("/", "/chat"):
    server.on("connect", connect, namespace=_namespace)
    server.on("who", who, namespace=_namespace)
    server.on("echo", echo, namespace=_namespace)
    server.on("later", later, namespace=_namespace)
    server.on("leave", leave, namespace=_namespace)


async def greet(sid: str, environ: dict[str, Any], auth: Any = None) -> None:
    await connect(sid, environ, auth)
    await server.emit("hello", NAME, to=sid)
    if MANNER == "kick":
        server.start_background_task(kick, sid)


async def kick(sid: str) -> None:
    await server.sleep(0.1)
    await server.disconnect(sid)


server.on("connect", greet, namespace="/")


async def tell(scope: Any, receive: Any, send: Any) -> None:
    """Return over HTTP the number of open sessions, or the connections seen so far.

    A request of ``/release`` lets the event ``later`` answer.
    """
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/release":
        released.set()
    if scope["path"] == "/sessions":
        body = json.dumps(sum(not s.closed for s in server.eio.sockets.values())).encode()
    else:
        body = json.dumps(seen).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


app = socketio.ASGIApp(server, other_asgi_app=tell, socketio_path=f"{PATH}/socket.io")
