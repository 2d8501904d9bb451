"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from seq2edge.runtime.sequences import GeneratedText
from seq2edge.serve.calls.pool import Pool
from seq2edge.serve.calls.prefixes import Prefixes

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """Counters of one server, and gauges of its pool; `text` is what `/metrics` answers."""

    def __init__(self, pool: Pool, prefixes: Prefixes | None) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)  # memory, file descriptors, time of the CPU
        GCCollector(registry=self._registry)
        self._registry.register(_PoolCollector(pool))

        def histogram(name: str, text: str, label: str, buckets: Sequence[float]) -> Histogram:
            name = f"seq2edge_{name}_seconds"
            return Histogram(name, text, [label], registry=self._registry, buckets=buckets)

        self._requests = Counter(
            "seq2edge_requests", "Requests answered", ["route", "status"], registry=self._registry
        )
        self._seconds = histogram("request", "From a request to its last byte", "route", SECONDS)
        self._tokens = Counter(
            "seq2edge_tokens",
            "Tokens of prompts and sources, those of them that were kept, and generated ones",
            ["model", "kind"],
            registry=self._registry,
        )
        if prefixes is not None:
            text = "Bytes of prefixes of prompts that are kept"
            held = Gauge("seq2edge_prefix_bytes", text, registry=self._registry)
            held.set_function(lambda: prefixes.size)
        self._prefixes = Counter(
            "seq2edge_prefixes",
            "Prompts that began with a prefix that was kept, and those that did not",
            ["model", "result"],
            registry=self._registry,
        )
        self._first = histogram("first_token", "Until an answer's first token", "model", SECONDS)
        self._each = histogram("token", "Between two tokens, the mean", "model", TOKEN_SECONDS)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def looked_up(self, model: str, cached_tokens: int) -> None:
        """Count a prompt of which so many tokens were kept."""
        self._prefixes.labels(model, "hit" if cached_tokens else "miss").inc()
        self._tokens.labels(model, "cached").inc(cached_tokens)

    def generated(self, model: str, prompt_tokens: int, answers: Sequence[GeneratedText]) -> None:
        """Count what was decoded for one call."""
        self._tokens.labels(model, "prompt").inc(prompt_tokens)
        self._tokens.labels(model, "generated").inc(sum(len(answer.ids) for answer in answers))
        for answer in answers:
            usage = answer.usage
            if usage is not None and usage.steps:
                self._first.labels(model).observe(usage.first_token_seconds)
                rest = usage.seconds - usage.first_token_seconds
                self._each.labels(model).observe(max(0.0, rest) / usage.steps)

    def text(self) -> bytes:
        """All of them, in Prometheus's text format."""
        return generate_latest(self._registry)


class _PoolCollector(Collector):
    """What is true when somebody asks."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        gauges = {
            "answering": "Requests that a model answers",
            "waiting": "Requests that wait for their turn",
            "decoding": "Requests in the running batch of a model or before it",
            "rows": "Sequences in the running batch of a model",
            "loaded": "Whether a model is loaded",
            "model_bytes": "Bytes of a loaded model's files",
        }
        families = {
            name: GaugeMetricFamily(f"seq2edge_{name}", text, labels=["model"])
            for name, text in gauges.items()
        }
        for entry in self._pool.entries.values():
            loaded = entry.loaded
            values = {
                "answering": entry.turns.active,
                "waiting": entry.turns.waiting,
                "decoding": 0 if loaded is None else loaded.service.requests,
                "rows": 0 if loaded is None else loaded.service.rows,
                "loaded": loaded is not None,
                "model_bytes": 0 if loaded is None else entry.size,
            }
            for name, value in values.items():
                families[name].add_metric([entry.name], float(value))
        return families.values()
