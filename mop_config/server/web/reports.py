"""The route for client reports: how many requests to each endpoint succeeded and failed."""

import os
import time

from flask import Blueprint, Response, request

from ..auth.policy import client_address
from ..monitor.reports import parse_report
from . import current_service, problem_response

blueprint = Blueprint("reports", __name__)

#: Name of the view: a read token suffices for this POST, since a report changes no list.
VIEW = "reports.report"
#: Limit of the body of a report in bytes.
MAX_REPORT = 4096
#: gunicorn's and uvicorn's variable for the addresses of proxies, and its default.
_TRUSTED, _LOOPBACK = "FORWARDED_ALLOW_IPS", "127.0.0.1,::1"


@blueprint.post("/reports")
def report() -> Response:
    """Count a client's report; 204 also if none of its endpoints is in the list."""
    service = current_service()
    reports = service.reports
    if reports is None:
        return problem_response(404, "reports are off here (ENDPOINT_REPORTS)")
    address = client_address(
        request.remote_addr or "",
        request.headers.get("X-Forwarded-For", ""),
        os.environ.get(_TRUSTED) or _LOOPBACK,
    )
    if not reports.admit(address, time.monotonic()):
        response = problem_response(429, "an address may report 10 times a minute")
        response.headers["Retry-After"] = "60"
        return response
    if request.mimetype != "application/json":
        return problem_response(415, "a report is application/json")
    body = request.stream.read(MAX_REPORT + 1)
    if len(body) > MAX_REPORT:
        return problem_response(413, f"a report may have {MAX_REPORT} bytes")
    try:
        counts = parse_report(body)
    except ValueError as error:
        return problem_response(400, str(error))
    reports.add(counts, service.listed())
    response = Response(status=204)
    response.headers["Cache-Control"] = "no-store"
    return response
