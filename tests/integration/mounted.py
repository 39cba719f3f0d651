"""A FastAPI application in which ours is mounted, as docs/embedding.md shows it."""

from fastapi import FastAPI

from mop_config import create_asgi_app

app = FastAPI()


def own() -> dict[str, str]:
    """Answer for the application itself."""
    return {"own": "route"}


app.add_api_route("/own", own)
app.mount("/config", create_asgi_app())
