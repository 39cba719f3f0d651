"""Figures for Prometheus, true for the whole host whichever worker answers."""

from flask import Response, request

from . import current_service

_OPEN_METRICS = "application/openmetrics-text"


def metrics() -> Response:
    """Serve the metrics, as Prometheus' text or as OpenMetrics."""
    runtime = current_service()
    text, content_type = runtime.metrics.expose(runtime.gauges(), open_metrics=_open_metrics())
    response = Response(text, content_type=content_type)
    response.headers["Cache-Control"] = "no-store"
    response.headers["Vary"] = "Accept"
    return response


def _open_metrics() -> bool:
    """Whether the request asks for OpenMetrics by name, and likes plain text no better."""
    qualities: dict[str, float] = {}
    for value, quality in request.accept_mimetypes:
        name = value.partition(";")[0].strip().lower()
        qualities[name] = max(quality, qualities.get(name, 0.0))
    wanted = qualities.get(_OPEN_METRICS, 0.0)
    return wanted > 0 and wanted >= qualities.get("text/plain", 0.0)
