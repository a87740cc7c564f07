"""Prometheus metrics. Labels are names of models and fixed words, never text of a client."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector


class Metrics:
    """The metrics of one proxy, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        registry: Any = {"registry": self.registry}
        self.requests = Counter(
            "hydralora_requests",
            "Requests, by the model that answered, why, and status.",
            ["expert", "reason", "status"],
            **registry,
        )
        self.refused = Counter(
            "hydralora_refused", "Requests that were not passed on, by status.", ["status"], **registry
        )
        self.active = Gauge("hydralora_active_requests", "Requests in progress.", **registry)
        self.decision = Histogram(
            "hydralora_decision_seconds",
            "Time to read a request and choose its model.",
            buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1),
            **registry,
        )
        self.probability = Histogram(
            "hydralora_probability",
            "Probability of the likeliest domain, of requests where it was computed.",
            buckets=(0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1),
            **registry,
        )
        self.first_byte = Histogram(
            "hydralora_backend_first_byte_seconds",
            "Time until the backend answers.",
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
            **registry,
        )
        self.disconnects = Counter("hydralora_client_disconnects", "Clients that left before the end.", **registry)
        self.reloads = Counter("hydralora_reloads", "Reloads of the exports.", ["result"], **registry)
        self.conversations = Gauge("hydralora_conversations", "Conversations that are remembered.", **registry)
        self.ready = Gauge("hydralora_backend_ready", "1 if the backend has every LoRA.", **registry)
