"""What /metrics shows, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one server. pool: the statistics of psycopg's pool."""

    def __init__(self, pool: Callable[[], dict[str, int]]):
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "pg_llm_requests", "Requests by route and HTTP status; 499: the client left.",
            ["route", "status"], registry=registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "pg_llm_request_seconds", "From a request's arrival to the last byte of its answer.",
            ["route"], buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.first_token = Histogram(
            "pg_llm_first_token_seconds", "From the start of a request's work to its first token.",
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.prompt_tokens = Counter(
            "pg_llm_prompt_tokens", "Tokens of prompts.", ["model"], registry=registry
        )
        self.completion_tokens = Counter(
            "pg_llm_completion_tokens", "Tokens made.", ["model"], registry=registry
        )
        self.running = Gauge("pg_llm_running", "Completions that run.", registry=registry)
        self.queued = Gauge("pg_llm_queued", "Completions that wait to run.", registry=registry)
        registry.register(_Pool(pool))

    def page(self) -> bytes:
        """The page in Prometheus' text format."""
        return generate_latest(self._registry)


class _Pool(Collector):
    """The pool's statistics, read when the page is."""

    NAMES = {
        "pool_size": "Sessions of the pool.",
        "pool_available": "Sessions of the pool that nobody uses.",
        "requests_waiting": "Requests that wait for a session.",
    }

    def __init__(self, pool: Callable[[], dict[str, int]]):
        self._pool = pool

    def collect(self) -> Iterable[GaugeMetricFamily]:
        found = self._pool()
        for name, said in self.NAMES.items():
            yield GaugeMetricFamily(f"pg_llm_pool_{name.removeprefix('pool_')}", said, found.get(name, 0))
