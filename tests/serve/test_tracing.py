"""Spans of requests, as OpenTelemetry's own library keeps them."""

from __future__ import annotations

import builtins

import httpx
import pytest
import serving

from seq2edge.errors import BackendError
from seq2edge.serve.app import make_app
from seq2edge.serve.calls.pool import Pool
from seq2edge.serve.calls.settings import Settings

SECRET = "w5 w6 w7"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SETTINGS = Settings(traces="http://127.0.0.1:9/v1/traces")


@pytest.fixture
def spans(folders, monkeypatch):
    """A server, and the spans that it made so far."""
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter, provider = memory.InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    monkeypatch.setattr("seq2edge.serve.tracing.export_to", lambda url: provider)
    with serving.serve(folders, SETTINGS) as served:
        yield served, exporter.get_finished_spans


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_is_a_span_below_its_callers(spans, stream):
    """With what it waited for and was decoded inside, what it took, and nothing that was said."""
    served, finished = spans
    body = {"model": "writer", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 6}
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    answer = served.post("/v1/chat/completions", {**body, "stream": stream}, headers=headers)
    assert answer.status_code == 200
    serving.soon(lambda: len(finished()) == 4, "a span is missing")
    *phases, request = finished()
    assert (request.name, request.kind.name) == ("POST /v1/chat/completions", "SERVER")
    assert {format(span.context.trace_id, "032x") for span in finished()} == {TRACE}
    assert format(request.parent.span_id, "016x") == PARENT
    assert {span.parent.span_id for span in phases} == {request.context.span_id}
    values = dict(request.attributes)
    assert values.pop("gen_ai.usage.input_tokens") > 3
    assert values == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/chat/completions",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "writer",
        "gen_ai.usage.output_tokens": 6,
        "gen_ai.response.finish_reasons": ("length",),
    }
    assert [span.name for span in phases] == ["queue", "prefill", "decode"]
    times = [time for span in phases for time in (span.start_time, span.end_time)]
    assert times == sorted(times)
    assert request.start_time <= times[0]
    assert times[-1] <= request.end_time
    assert SECRET not in "".join(span.to_json() for span in finished())


def test_errors_have_spans_and_probes_have_none(spans):
    """With the status; a request without a caller's trace begins one."""
    served, finished = spans
    for path in ("/health", "/metrics", "/nothing"):
        httpx.get(served.url + path)
    served.serving.pool.entry("writer").folder = "/nowhere"
    served.post("/v1/completions", {"model": "writer", "prompt": SECRET})
    serving.soon(lambda: len(finished()) == 3, "a span is missing")
    unknown, _, failed = finished()
    assert (unknown.name, unknown.attributes["http.response.status_code"]) == ("GET", 404)
    assert unknown.parent is None
    assert (failed.status.status_code.name, failed.attributes["error.type"]) == ("ERROR", "503")


def test_without_its_library_the_extra_is_named(folders, monkeypatch):
    """Where spans are asked for; nothing else needs it."""
    original = builtins.__import__

    def without(name, *more):
        if name.startswith("opentelemetry"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(__import__("sys").modules, "seq2edge.serve.tracing", raising=False)
    monkeypatch.delattr("seq2edge.serve.tracing", raising=False)
    pool = Pool(folders, serving.load)
    make_app(pool, Settings())
    with pytest.raises(BackendError, match=r"pip install seq2edge\[opentelemetry\]"):
        make_app(pool, SETTINGS)
