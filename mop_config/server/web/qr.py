"""The routes of the QR code from which an app reads its endpoints."""

import hashlib
import re
from functools import lru_cache, partial
from urllib.parse import parse_qsl

from flask import Blueprint, Response, request

from ... import qr
from ...errors import PayloadError, QrTooLong
from . import current_service, problem_response

blueprint = Blueprint("qr", __name__)

#: Limit of the fields in a query.
_MAX_FIELDS = 100
_NUMBER = re.compile("[0-9]{1,9}")
_TYPES = {"svg": "image/svg+xml", "png": "image/png", "json": "application/json"}


def _answer(kind: str) -> Response:
    service = current_service()
    try:
        found = choose(
            request.query_string.decode("latin-1"), service.store.view.snapshot.plain.body
        )
    except PayloadError as error:
        return problem_response(400, str(error), {"parameter": error.field})
    except QrTooLong as error:
        fits = [{"format": form, "limit": limit} for form, limit in error.fits]
        members = {
            "format": error.format,
            "bytes": error.size,
            "capacity": error.capacity,
            "fits": [{k: v for k, v in each.items() if v is not None} for each in fits],
        }
        return problem_response(422, str(error), members)
    if found is None:
        return problem_response(404, "the list has no endpoint to put into a code")
    text, title = found
    response = Response(content_type=_TYPES[kind])
    # The code must not be older than the list: an app may scan it at any time.
    private = "private, " if service.settings.guarded else ""
    response.headers["Cache-Control"] = f"{private}no-cache"
    response.set_etag(hashlib.sha256(f"{kind} {text.text}".encode()).hexdigest()[:32])
    response.make_conditional(request)
    if response.status_code == 200:
        response.data = _draw(kind, text, title)
    return response


for _kind in _TYPES:
    blueprint.add_url_rule(f"/qr.{_kind}", _kind, partial(_answer, _kind))


def choose(query: str, body: bytes) -> tuple[qr.QrText, str] | None:
    """Choose the text and the title of a code; None if the list is empty.

    Args:
        query: The query string, as for the routes; parameters of other names are ignored.
        body: The wire form of the list.

    Raises:
        PayloadError: If a parameter is invalid; the error names the parameter.
        QrTooLong: If the text does not fit.
    """
    try:
        fields = parse_qsl(
            query, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS
        )
    except ValueError:
        allowed = f"must be UTF-8, with {_MAX_FIELDS} fields at most"
        raise PayloadError("query", allowed) from None
    given: dict[str, str] = {}
    for name, value in fields:
        if name in given:
            raise PayloadError(name, "must be given once")
        if name in {"format", "room_id", "limit"}:
            given[name] = value
    form, room, number = given.get("format"), given.get("room_id"), given.get("limit")
    # Anything but a number becomes -1, which ``qr.check`` rejects.
    limit = None if number is None else int(number) if _NUMBER.fullmatch(number) else -1
    qr.check(form, room, limit)
    shortlist = _shortlist(body)
    if not shortlist:
        return None
    text = qr.fit(shortlist, form, room, limit)
    most = 1 if text.format == "single" else limit
    api, socketio = (len(listed[:most]) for listed in shortlist.best.kinds().values())
    return text, f"QR code with {api} API and {socketio} Socket.io endpoints"


# The cache key is the body in the store: always the same bytes object, whose hash is cached.
@lru_cache(maxsize=1)
def _shortlist(body: bytes) -> qr.Shortlist:
    return qr.Shortlist.of_body(body)


# All viewers of the dashboard request the same images.
@lru_cache(maxsize=32)
def _draw(kind: str, text: qr.QrText, title: str) -> bytes:
    if kind == "json":
        return text.text.encode()
    return qr.image(text.text, kind, title=title)
