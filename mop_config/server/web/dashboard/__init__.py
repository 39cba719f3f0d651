"""The dashboard: the view that renders the operator's page, and its static files."""

import hashlib
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from urllib.parse import urlencode

from flask import Blueprint, Response, request
from jinja2 import Environment, PackageLoader, StrictUndefined

from .... import __version__
from ....errors import PayloadError, QrTooLong
from ....model.endpoint import rfc3339
from ....model.printable import printable
from ...status.translations import LANGUAGES, Texts
from ..guards import current_service
from ..views import choose
from . import viewmodel


class _Dashboard(Blueprint):
    def get_send_file_max_age(self, filename: str | None) -> int:
        """Make a browser revalidate the files, so that no script is older than its page.

        Flask's method takes the time from the configuration of the application.
        """
        return 0


blueprint = _Dashboard("dashboard", __name__, static_folder="static")

#: Only our own files are loaded; inline scripts and styles are blocked.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
#: The query parameters of the page; others are ignored.
PARAMETERS = ("q", "only", "sort", "format", "room_id", "limit", "lang")


@blueprint.get("/")
def dashboard() -> Response:
    """Render the page; the page's script polls this view and replaces the parts that differ."""
    service = current_service()
    query = {name: request.args.get(name, "")[: viewmodel.MAX_VALUE] for name in PARAMETERS}
    language = query["lang"]
    if language not in LANGUAGES:
        language = request.accept_languages.best_match(LANGUAGES) or next(iter(LANGUAGES))
    status = service.status()
    snapshot = service.store.view.snapshot
    response = Response(content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Content-Language"] = language
    response.headers["Cache-Control"] = "no-store"
    response.headers["Vary"] = "Accept-Language"
    parts = (status, snapshot.etag, query, language, __version__, request.root_url)
    response.set_etag(hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32])
    response.make_conditional(request)
    if response.status_code == 200:
        body = snapshot.plain.body
        now = time.time()
        page = viewmodel.describe(status, body, query, service.check_history(), now)
        template = _templates().get_template("dashboard.html")
        # Relative to the page's own address: a proxy may have removed a prefix from the path.
        up = "../" * (service.places.home.count("/") - 1)
        text = template.render(
            page=page,
            query=query,
            qr=_qr(query, body, snapshot.etag),
            t=Texts(language),
            language_urls={code: _encoded(query, lang=code) for code in LANGUAGES},
            up=up,
            config=up + service.places.prefix.strip("/"),
            now=rfc3339(now),
        )
        response.set_data(text)
    return response


def _qr(query: dict[str, str], body: bytes, etag: str) -> dict[str, str | None]:
    """Return the form of the QR code and the query of its images, or why there is no code."""
    wanted = {name: query[name] for name in ("format", "room_id", "limit") if query[name]}
    problem = found = None
    try:
        found = choose(wanted, body)
    except (PayloadError, QrTooLong) as error:
        problem = str(error)
    return {
        "problem": problem,
        "format": found and found[0].format,
        "query": _encoded(wanted),
        # The ETag makes the browser load the image again when the list changes.
        "fresh_query": _encoded(wanted, etag=etag),
    }


def _encoded(query: Mapping[str, str], **more: str) -> str:
    """Return a query string with its question mark, without empty values."""
    given = urlencode({name: value for name, value in {**query, **more}.items() if value})
    return f"?{given}" if given else ""


@cache
def _templates() -> Environment:
    # Not the application's own environment, which may have templates of the same names.
    environment = Environment(
        loader=PackageLoader("mop_config.server.web.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(visible=printable, clock=_clock, days_until=_days_until)
    environment.globals.update(languages=LANGUAGES, limits=viewmodel, version=__version__)
    return environment


def _clock(moment: str) -> str:
    """Format a time of the status document for people."""
    return f"{moment[:10]} {moment[11:19]} UTC"


def _days_until(moment: str) -> int:
    """Return the whole days from now until an RFC 3339 time; negative if that time has passed."""
    return (datetime.fromisoformat(moment) - datetime.now(UTC)).days
