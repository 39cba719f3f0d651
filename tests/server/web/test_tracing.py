"""OpenTelemetry's Flask instrumentation sees the requests for the list."""

from pathlib import Path
from typing import Any

from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mop_config import Settings, create_app
from mop_config.server.web.app import is_untouched

from ...conftest import SAMPLE
from ...servers import ENDPOINTS


def test_the_list_gets_a_span(tmp_path: Path) -> None:
    """Flask's view answers under WSGI, and the ASGI worker uses the bridge for all routes."""
    app = create_app(Settings(source=str(SAMPLE), state_dir=str(tmp_path / "state")), start=False)
    assert is_untouched(app)
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    instrumentor: Any = FlaskInstrumentor()
    instrumentor.instrument_app(app, tracer_provider=provider)
    try:
        assert not is_untouched(app)
        assert app.test_client().get(ENDPOINTS).status_code == 200
    finally:
        instrumentor.uninstrument_app(app)
    (span,) = spans.get_finished_spans()
    assert span.name == f"GET {ENDPOINTS}"
    assert span.attributes is not None
    assert span.attributes["http.status_code"] == 200
