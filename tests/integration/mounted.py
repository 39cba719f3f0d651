"""A FastAPI application that mounts ours, as docs/embedding.md shows."""

from fastapi import FastAPI

from mop_config import create_asgi_app

app = FastAPI()


def own() -> dict[str, str]:
    """Return the application's own answer."""
    return {"own": "route"}


app.add_api_route("/own", own)
app.mount("/config", create_asgi_app())
