"""A FastAPI application that mounts ours, as docs/embedding.md shows."""

from fastapi import FastAPI, Request

from mop_config import create_asgi_app

app = FastAPI()


def own() -> dict[str, str]:
    """Return the application's own answer."""
    return {"own": "route"}


async def size(request: Request) -> int:
    """Return the length of the request's body."""
    return len(await request.body())


app.add_api_route("/own", own)
app.add_api_route("/size", size, methods=["POST"])
app.mount("/config", create_asgi_app())
