"""What each route takes, and what it answers."""

from typing import Any

from .... import __version__
from ....model.codec import MAX_ROOM_ID, QR_FORMATS
from ....qr.text import MAX_LIMIT
from .parts import Node, answer, media, query, ref, text, whole

#: The lists, answers and codes of the guide.
_HOSTS = ("log.ym1.com", "ym2.xyz", "xx", "ym3.net", "12.34.56.78", "9.10.11.12")
_LIST = {
    kind: [
        {"url": f"https://{host}{path}", "priority": priority}
        for priority, host in enumerate(_HOSTS)
    ]
    for kind, path in (("api_endpoints", "/api/v1"), ("socketio_endpoints", ""))
}
_HEALTH = {"status": "healthy", "service": "mop-api", "version": __version__}
_READY = {"state": "fresh", "reason": None, "complete": True}
_ROOM = "room123"
_API = ("https://api-primary.example.com", "https://api-backup.example.com")
_SOCKET = ("https://socket-primary.example.com",)
_CODES: dict[str, Node] = {
    "single": {
        "api_url": "https://api.example.com",
        "socketio_url": "https://socket.example.com",
        "room_id": _ROOM,
    },
    "list": {"api_endpoints": [*_API], "socketio_endpoints": [*_SOCKET], "room_id": _ROOM},
    "full": {
        "api_endpoints": [{"url": url, "priority": i} for i, url in enumerate(_API)],
        "socketio_endpoints": [{"url": url, "priority": i} for i, url in enumerate(_SOCKET)],
        "room_id": _ROOM,
    },
}
_NOT_MODIFIED = "What the client has is true still"
_TAGGED = ("ETag", "Cache-Control")

#: Paths that never need a token.
#: Where the paths of the configuration stand in an application of ours.
PREFIX = "/api/v1/config"
OPEN = ("/health", "/api/v1/health", "/ready")


def paths(home: str, prefix: str = PREFIX) -> dict[str, Node]:
    """Give every path.

    Args:
        home: The dashboard's path, with a slash at its end.
        prefix: What precedes the paths of the configuration.
    """
    return {
        f"{prefix}/endpoints": _endpoints(),
        f"{prefix}/endpoints.jws": _signed_endpoints(),
        f"{prefix}/keys": _keys(),
        f"{prefix}/status": _status(),
        f"{prefix}/reload": _reload(),
        f"{prefix}/targets": _targets(),
        **{f"{prefix}/qr.{kind}": _qr(kind) for kind in ("svg", "png", "json")},
        "/health": _health("health"),
        "/api/v1/health": _health("apiHealth"),
        "/ready": _ready(),
        "/metrics": _metrics(),
        "/openapi.json": _openapi(),
        home: _dashboard(),
        f"{home}static/{{name}}": _static(),
    }


def _operation(
    tag: str,
    name: str,
    summary: str,
    answers: dict[str, Node],
    *parameters: Node,
    errors: dict[str, str] | None = None,
    **more: Any,
) -> Node:
    """Describe an operation; ``errors`` are names of components by status."""
    usual = {"400": "BadRequest", "401": "Unauthorized", "500": "ServerError"}
    named = {**usual, **(errors or {})}
    responses = answers | {status: ref(error, "responses") for status, error in named.items()}
    return {
        "tags": [tag],
        "operationId": name,
        "summary": summary,
        **({"parameters": list(parameters)} if parameters else {}),
        "responses": dict(sorted(responses.items())),
        **more,
    }


def _with_head(get: Node) -> Node:
    """Add HEAD: the same answers without their bodies."""
    responses = {}
    for status, response in get["responses"].items():
        bare = {name: value for name, value in response.items() if name != "content"}
        responses[status] = bare if "$ref" not in bare else {"description": "As for GET"}
    name = f"{get['operationId']}Head"
    summary = f"{get['summary']}: the headers alone"
    head = {**get, "operationId": name, "summary": summary, "responses": responses}
    return {"get": get, "head": head}


def _shared(*names: str) -> list[Node]:
    return [ref(name, "parameters") for name in names]


def _endpoints() -> Node:
    json = {"application/json": media(ref("EndpointList"), _LIST)}
    jose = {"application/jose": media(ref("Jws"))}
    dated = (*_TAGGED, "Vary")
    get = _operation(
        "list",
        "getEndpoints",
        "The endpoints, at once or when they change",
        {
            "200": answer(
                "The list; as JWS where `Accept` prefers `application/jose` and a key is set",
                json | jose,
                *(*dated, "Last-Modified", "Content-Encoding", "Preference-Applied"),
            ),
            "304": answer(_NOT_MODIFIED, None, *dated, "Preference-Applied", "Retry-After"),
        },
        *_shared("wait", "If-None-Match", "If-Modified-Since", "Accept-Encoding"),
        errors={"404": "NotSigned", "503": "NothingToSign"},
    )
    return _with_head(get)


def _signed_endpoints() -> Node:
    get = _operation(
        "list",
        "getSignedEndpoints",
        "The endpoints, signed, at once or when they change",
        {
            "200": answer(
                "The list",
                {"application/jose": media(ref("Jws"))},
                *(*_TAGGED, "Content-Encoding", "Preference-Applied"),
            ),
            "304": answer(_NOT_MODIFIED, None, *_TAGGED, "Preference-Applied", "Retry-After"),
        },
        *_shared("wait", "If-None-Match", "Accept-Encoding"),
        errors={"404": "NotSigned", "503": "NothingToSign"},
    )
    return _with_head(get)


def _keys() -> Node:
    answers = {
        "200": answer("The keys", {"application/jwk-set+json": media(ref("JwkSet"))}, *_TAGGED),
        "304": answer(_NOT_MODIFIED, None, *_TAGGED),
    }
    summary = "The public keys that lists are signed with"
    return {"get": _operation("list", "getKeys", summary, answers, *_shared("If-None-Match"))}


def _status() -> Node:
    body = {"application/json": media(ref("Status"))}
    answers = {"200": answer("What all workers of the host say", body, "Cache-Control")}
    summary = "What is served, since when, what is wrong in the file, and what happened lately"
    return {"get": _operation("operation", "getStatus", summary, answers)}


def _reload() -> Node:
    body = {"application/json": media(ref("ReloadReport"))}
    errors = {
        "403": "Forbidden",
        "413": "TooLarge",
        "422": "Refused",
        "503": "Failed",
        "504": "Late",
    }
    operation = _operation(
        "operation",
        "reload",
        "Read the source in every worker of the host, and answer when all have",
        {"200": answer("All serve what the source holds", body, "Cache-Control")},
        errors=errors,
        security=[{"bearer": []}],
    )
    return {"post": operation}


def _targets() -> Node:
    body = {"application/json": media(ref("Targets"))}
    answers = {"200": answer("The targets", body, "Cache-Control")}
    summary = "The endpoints' health URLs, for Prometheus"
    return {"get": _operation("operation", "getTargets", summary, answers)}


def _qr(kind: str) -> Node:
    codes = {form: {"value": code} for form, code in _CODES.items()}
    types: dict[str, Node] = {
        "svg": {"image/svg+xml": media(text())},
        "png": {"image/png": {}},
        "json": {"application/json": {"schema": ref("Qr"), "examples": codes}},
    }
    return {
        "get": _operation(
            "qr",
            f"getQr{kind.capitalize()}",
            "The text of the code" if kind == "json" else f"The code as {kind.upper()}",
            {
                "200": answer("What an app scans", types[kind], *_TAGGED),
                "304": answer(_NOT_MODIFIED, None, *_TAGGED),
            },
            query(
                "format",
                "Without it: the first of them that fits",
                text(enum=list(QR_FORMATS)),
            ),
            query(
                "room_id",
                "A room to join",
                text(minLength=1, maxLength=MAX_ROOM_ID),
                example=_ROOM,
            ),
            query("limit", "So many endpoints of each kind, the best first", whole(1, MAX_LIMIT)),
            *_shared("If-None-Match"),
            errors={"404": "NoEndpoint", "422": "TooLong"},
        )
    }


def _open_operation(name: str, summary: str, answers: dict[str, Node]) -> Node:
    operation = _operation("operation", name, summary, answers, security=[])
    del operation["responses"]["401"]
    return operation


def _health(name: str) -> Node:
    body = {"application/json": media(ref("Health"), _HEALTH)}
    answers = {"200": answer("The process is alive", body, "Cache-Control")}
    return {"get": _open_operation(name, "Liveness", answers)}


def _ready() -> Node:
    body = {"application/json": media(ref("Readiness"), _READY)}
    answers = {
        "200": answer("A list is served", body, "Cache-Control"),
        "503": answer("None was ever seen, or the reload thread has died", body, "Cache-Control"),
    }
    return {"get": _open_operation("ready", "Readiness", answers)}


def _metrics() -> Node:
    body = {name: media(text()) for name in ("text/plain", "application/openmetrics-text")}
    answers = {"200": answer("The metrics", body, "Cache-Control", "Vary")}
    summary = "Prometheus' text format, or OpenMetrics"
    return {"get": _operation("operation", "getMetrics", summary, answers)}


def _openapi() -> Node:
    body = {"application/json": media({"type": "object", "required": ["openapi"]})}
    answers = {
        "200": answer("OpenAPI 3.1", body, *_TAGGED),
        "304": answer(_NOT_MODIFIED, None, *_TAGGED),
    }
    summary = "This description"
    return {"get": _operation("operation", "getOpenapi", summary, answers)}


def _dashboard() -> Node:
    described = {
        "q": "Shows only the endpoints whose URL holds it",
        "only": "`unhealthy` shows only the endpoints that are not healthy",
        "sort": "`priority`, `url`, `health` or `latency`; else the order of the list",
        "format": "The form of the QR code",
        "room_id": "The room in the QR code",
        "limit": "How many endpoints of each kind the QR code has",
        "lang": "`en` or `zh`; else what `Accept-Language` prefers",
    }
    answers = {
        "200": answer("The page", {"text/html": media(text())}, *_TAGGED, "Content-Language"),
        "304": answer(_NOT_MODIFIED, None, *_TAGGED),
    }
    wanted = [query(name, words, text()) for name, words in described.items()]
    summary = "The operator's page; a parameter that it cannot use is passed over"
    return {"get": _operation("page", "getDashboard", summary, answers, *wanted)}


def _static() -> Node:
    types = ("text/css", "text/javascript", "image/svg+xml")
    answers = {
        "200": answer("The file", {name: media(text()) for name in types}, *_TAGGED),
        "304": answer(_NOT_MODIFIED, None, *_TAGGED),
    }
    name = {
        "name": "name",
        "in": "path",
        "required": True,
        "schema": text(),
        "example": "dashboard.js",
    }
    summary = "The page's style, script and sign"
    errors = {"404": "NotFound"}
    return {"get": _operation("page", "getStatic", summary, answers, name, errors=errors)}
