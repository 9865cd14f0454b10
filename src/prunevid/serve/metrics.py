# SPDX-License-Identifier: Apache-2.0
"""What the server counts, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from prunevid.serve.engine import Engine, Reply

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PATHS = ("/v1/chat/completions", "/v1/models", "/healthz", "/metrics")
_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """The counts of one engine, in a registry of their own.

    Args:
        engine: whose replies are counted, and whose queue is looked at.
    """

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "prunevid_requests", "Requests by path and HTTP status.", ["path", "status"], registry=self.registry
        )
        self._stages = Histogram(
            "prunevid_stage_seconds", "Seconds of each stage.", ["stage"], buckets=_BUCKETS, registry=self.registry
        )
        self._tokens = Counter(
            "prunevid_tokens",
            "Tokens: prompt (unpruned), prompt_kept, visual (unpruned), visual_kept, completion.",
            ["kind"],
            registry=self.registry,
        )
        worker = engine.worker
        looked_at = {
            "prunevid_queue_length": ("Requests that wait.", lambda: worker.queued),
            "prunevid_running": ("Requests that are being answered.", lambda: worker.running),
            "prunevid_open_requests": ("Places taken: waiting, running, or sending a body.", lambda: worker.places),
        }
        for name, (text, look) in looked_at.items():
            Gauge(name, text, registry=self.registry).set_function(look)
        engine.on_reply(self._count)

    def request(self, path: str, status: int) -> None:
        """Counts a request; paths that this server doesn't have are one."""
        known = next((one for one in _PATHS if path == one or path.startswith(one + "/")), "other")
        self._requests.labels(known, str(status)).inc()

    def _count(self, reply: Reply) -> None:
        for stage, spent in reply.answer.stats.get("milliseconds", {}).items():
            self._stages.labels(stage).observe(spent / 1000.0)
        kinds = {
            "prompt": reply.prompt_tokens,
            "prompt_kept": reply.prompt_tokens_kept,
            "visual": reply.visual_tokens,
            "visual_kept": reply.visual_tokens_kept,
            "completion": reply.completion_tokens,
        }
        for kind, count in kinds.items():
            self._tokens.labels(kind).inc(count)

    def text(self) -> bytes:
        """All counts."""
        return generate_latest(self.registry)
