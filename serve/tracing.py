"""OpenTelemetry: a span for each request, and in it what it waited for and was decoded.

Names are those of the semantic conventions for HTTP and generative AI; no text is among the values.
"""

from __future__ import annotations

import time
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from seq2edge.serve.calls.call import MODEL, PHASES, STATUS, USED

UNTRACED = ("/health", "/ready", "/metrics")  # what is asked all the time
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}


def export_to(url: str) -> TracerProvider:
    """What sends spans to a collector's address, by OTLP over HTTP, from a thread of its own."""
    provider = TracerProvider(resource=Resource.create({"service.name": "seq2edge"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
    return provider


class Tracing:
    """Makes the spans of each request when it is over, below that of its `traceparent`."""

    def __init__(self, app: ASGIApp, provider: TracerProvider) -> None:
        self._app = app
        self._tracer = provider.get_tracer("seq2edge.serve")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"] in UNTRACED:
            await self._app(scope, receive, send)
            return
        begin = time.time_ns()
        try:
            await self._app(scope, receive, send)
        finally:
            self._trace(scope, begin)

    def _trace(self, scope: Scope, begin: int) -> None:
        status: int = scope[STATUS]  # as the log has it
        route = getattr(scope.get("endpoint"), "path", None)
        span = self._tracer.start_span(
            " ".join(filter(None, (scope["method"], route))),
            context=TraceContextTextMapPropagator().extract(Headers(scope=scope)),
            kind=SpanKind.SERVER,
            attributes=_attributes(scope, route, status),
            start_time=begin,
        )
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        for name, first, last in scope.get(PHASES, ()):
            context = set_span_in_context(span)
            self._tracer.start_span(name, context=context, start_time=first).end(last)
        span.end()


def _attributes(scope: Scope, route: str | None, status: int) -> dict[str, Any]:
    values: dict[str, Any] = {
        "http.request.method": scope["method"],
        "http.response.status_code": status,
        "http.route": route,
        "gen_ai.operation.name": OPERATIONS.get(route or ""),
        "gen_ai.request.model": scope.get(MODEL),
    }
    if USED in scope:
        names = ("usage.input_tokens", "usage.output_tokens", "response.finish_reasons")
        values |= {f"gen_ai.{name}": value for name, value in zip(names, scope[USED], strict=True)}
    if status >= 500:
        values["error.type"] = str(status)
    return {name: value for name, value in values.items() if value is not None}
