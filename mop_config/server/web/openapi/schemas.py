"""What the bodies of answers look like."""

from typing import Any, get_type_hints

from ....health import state
from ....model.codec import MAX_ROOM_ID, Difference
from ...parsing.problems import MAX_KEPT, MAX_TEXT, Code, Severity
from ...serving.store import HISTORY, Result, SourceState, Trigger
from .parts import Node, array, members, nullable, ref, seconds, text, whole

_TIME = text(format="date-time", description="RFC 3339, UTC", examples=["2026-01-31T23:59:59.000Z"])
_URL = text(format="uri", examples=["https://log.ym1.com/api/v1"])
_ETAG = text(pattern="^[0-9a-f]{32}$", description="Content hash of a list")
_PRIORITY = whole(0, 65535) | {"description": "Lower is preferred"}
_KIND = text(enum=["api", "socketio"])
_PID = whole(1)


def schemas() -> dict[str, Node]:
    """Give every schema by its name."""
    return {
        "Endpoint": _endpoint(),
        "EndpointList": members(
            {
                "api_endpoints": array(ref("Endpoint")),
                "socketio_endpoints": array(ref("Endpoint")),
            },
            description="In the order of the file, which is not that of the priorities",
        ),
        "Jws": text(
            pattern=r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$",
            description="Compact JWS (RFC 7515), signed with Ed25519 (RFC 9864): the header has "
            "`kid` and `typ` `endpoints+jws`, the claims are `ver`, `iat`, `exp` and those of "
            "the list",
        ),
        "JwkSet": _jwk_set(),
        "Health": members({"status": {"const": "healthy"}, "service": text(), "version": text()}),
        "Readiness": _readiness(),
        **_status(),
        "ReloadReport": _reload_report(),
        "Qr": _qr(),
        "Targets": _targets(),
        "Problem": _problem_document(),
    }


def _endpoint() -> Node:
    name = text(description="The name that the certificate of an IP address is for")
    return members(
        {"url": _URL, "priority": _PRIORITY, "server_name": name}, optional=("server_name",)
    )


def _jwk_set() -> Node:
    key = members(
        {
            "kty": {"const": "OKP"},
            "crv": {"const": "Ed25519"},
            "x": text(pattern="^[A-Za-z0-9_-]{43}$", description="The public key"),
            "kid": text(description="Thumbprint of the key, RFC 7638"),
            "alg": text(),
            "use": text(),
        },
        optional=("alg", "use"),
    )
    return members({"keys": array(key)}, description="RFC 7517; empty where nothing is signed")


def _readiness() -> Node:
    reason = text(description="Null too for a request without a token, where tokens are set")
    return members(
        {
            "state": _state(),
            "reason": nullable(reason),
            "complete": _complete(),
            "problem_counts": _problem_counts(),
        },
        optional=("problem_counts",),
    )


def _complete() -> Node:
    words = "Whether a list is served and no entry of the source was left out of it"
    return {"type": "boolean", "description": words}


def _problem_counts() -> Node:
    return members({"error": whole(), "warning": whole()}, description="Exact numbers")


def _state() -> Node:
    return text(
        enum=list(SourceState),
        description="fresh: what the source holds is served. rejected: its newest text was "
        "refused. stale: no good text was seen since the start, or it cannot be read. empty: no "
        "good list was ever seen",
    )


def _served() -> dict[str, Node]:
    """Describe what the status and the account of a reload both say of the list."""
    return {
        "state": _state(),
        "loaded_at": _TIME,
        "counts": members({"api": whole(), "socketio": whole()}),
        "complete": _complete(),
        "problem_counts": _problem_counts(),
    }


def _status() -> dict[str, Node]:
    reload: Node = {
        "at": _TIME,
        "trigger": text(enum=list(Trigger)),
        "result": text(enum=list(Result)),
        "error": nullable(text()),
        "duration_seconds": seconds(),
    }
    history = {**reload, "etag": nullable(_ETAG), "code": _code(), "change": _difference()}
    worker = {"pid": _PID, "etag": _ETAG, "last_reload": nullable(ref("Reload"))}
    return {
        "Reload": members(reload),
        "Change": members(history, optional=("change",)),
        "Worker": members(worker),
        "FileProblem": members(
            {
                "severity": text(enum=list(Severity)),
                "code": text(enum=sorted(Code)),
                "line": whole(1),
                "column": whole(1) | {"description": "In characters"},
                "message": text(),
                "text": text(maxLength=MAX_TEXT),
            }
        ),
        "EndpointHealth": _endpoint_health(),
        "Status": members(
            {
                "source": text(description="The file, or the key in etcd"),
                "etag": _ETAG,
                **_served(),
                "problems": array(ref("FileProblem"), description=f"The first {MAX_KEPT}"),
                "last_reload": nullable(ref("Reload")),
                "history": array(ref("Change"), maxItems=HISTORY, description="Newest first"),
                "watcher": members({"mode": text(), "alive": {"type": "boolean"}}),
                "workers": array(ref("Worker"), minItems=1),
                "health": nullable(_health()),
            },
            description="One picture of all workers of the host: the worst of them speaks",
        ),
    }


def _code() -> Node:
    words = "The problem's code, where the text was refused or the source did not answer"
    return {"anyOf": [text(enum=sorted(Code)), {"type": "null"}], "description": words}


def _difference() -> Node:
    kinds: dict[Any, Node] = {int: whole(), tuple[str, ...]: array(text())}
    hints = get_type_hints(Difference)
    return members({name: kinds[hint] for name, hint in hints.items()})


def _health() -> Node:
    return members(
        {
            "interval_seconds": seconds(),
            "alive": {"type": "boolean"},
            "pid": nullable(_PID),
            "checked_at": nullable(_TIME),
            "endpoints": array(ref("EndpointHealth")),
        },
        description="What checking the endpoints has found; null where ENDPOINT_PROBE_INTERVAL "
        "is not set",
    )


def _endpoint_health() -> Node:
    return members(
        {
            "kind": _KIND,
            "url": _URL,
            "state": text(enum=list(state.HealthState)),
            "up": nullable({"type": "boolean"}),
            "response_seconds": nullable(seconds()),
            "checked_at": nullable(_TIME),
            "detail": text(),
            "recent": array(nullable(seconds()), description="The newest comes last"),
        }
    )


def _reload_report() -> Node:
    return members(
        {
            "scope": text(
                enum=["host", "worker"],
                description="worker: the state folder cannot be written to, so that other "
                "workers could not be asked",
            ),
            "result": nullable(text(enum=list(Result), description="The worst of the workers'")),
            "etag": nullable(_ETAG),
            **_served(),
            "workers": array(ref("Worker")),
            "problems": array(ref("FileProblem"), description="Of an answer with 200 or 422"),
            "note": text(),
        },
        optional=(*_served(), "problems", "note"),
    )


def _qr() -> Node:
    room = text(minLength=1, maxLength=MAX_ROOM_ID)

    def form(api: str, socketio: str, schema: Node, title: str) -> Node:
        node = members({api: schema, socketio: schema, "room_id": room}, title=title)
        del node["required"]
        return {**node, "anyOf": [{"required": [api]}, {"required": [socketio]}]}

    lists = ("api_endpoints", "socketio_endpoints")
    return {
        "anyOf": [
            form(*lists, array(ref("Endpoint"), minItems=1), "full"),
            form(*lists, array(_URL, minItems=1), "list"),
            form("api_url", "socketio_url", _URL, "single"),
        ],
        "description": "A kind without endpoints is left out",
    }


def _targets() -> Node:
    labels = {
        "type": "object",
        "properties": {"kind": _KIND, "priority": text(pattern="^[0-9]{1,5}$"), "url": _URL},
        "required": ["kind", "priority", "url"],
        "additionalProperties": text(),
    }
    group = members({"targets": array(text(), minItems=1), "labels": labels})
    return array(group, description="Prometheus' HTTP service discovery")


def _problem_document() -> Node:
    return members(
        {
            "type": text(examples=["about:blank"]),
            "title": text(),
            "status": whole(400, 599),
            "detail": nullable(text()),
        },
        description="RFC 9457; some have members of their own besides",
    )
