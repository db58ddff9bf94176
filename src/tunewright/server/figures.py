"""What a server counts, in the form that Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
OTHER = "other"  # every path that is no route: a client cannot make the figures grow


class Figures:
    """The figures of one server; `num_rows` says how many rows are being answered."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, num_rows: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self.paths: Iterable[str] = ()
        self._requests = Counter(
            "tunewright_requests", "Requests by path and HTTP status.", ("path", "status"),
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "tunewright_request_seconds", "Seconds from the first byte to the last.", ("path",),
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self._tokens = Counter(
            "tunewright_tokens", "Tokens that the model has read.", registry=self._registry
        )
        rows = Gauge("tunewright_rows", "Rows that are being answered.", registry=self._registry)
        rows.set_function(num_rows)

    def heard(self, path: str, status: int, seconds: float) -> None:
        """Counts a request."""
        known = path if path in self.paths else OTHER
        self._requests.labels(known, status).inc()
        self._seconds.labels(known).observe(seconds)

    def read(self, num_tokens: int) -> None:
        """Counts tokens."""
        self._tokens.inc(num_tokens)

    def text(self) -> bytes:
        """Returns all figures as text."""
        return generate_latest(self._registry)
