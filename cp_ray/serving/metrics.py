"""What Prometheus is told: requests, waiting, tokens and batches, by culture where it matters."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from cp_ray.serving.call import Call
from cp_ray.serving.chat import Load

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """One gateway's."""

    def __init__(self) -> None:
        self._registry = on = CollectorRegistry()
        self._requests = Counter(
            "cp_ray_requests", "Requests that have ended.", ["path", "model", "version", "status"], registry=on
        )
        self._seconds = Histogram(
            "cp_ray_request_seconds", "From request to end.", ["path"], buckets=_SECONDS, registry=on
        )
        self._first = Histogram(
            "cp_ray_first_token_seconds", "From request to a stream's first token.", ["model"], buckets=_SECONDS,
            registry=on,
        )  # fmt: skip
        self._tokens = Counter("cp_ray_tokens", "Tokens, of prompts and drawn.", ["model", "kind"], registry=on)
        self._routes = Counter("cp_ray_routes", "Why a model was chosen.", ["why"], registry=on)
        self._refused = Counter("cp_ray_refused", "Requests that were too many.", ["code"], registry=on)
        self._under_way = Gauge("cp_ray_under_way", "Requests let in that have not ended.", registry=on)
        self._load = Gauge("cp_ray_engine", "What a replica of the engine is busy with.", ["what"], registry=on)

    def ended(self, call: Call) -> None:
        """A request has ended."""
        self._requests.labels(call.route, call.model, call.version, str(call.status)).inc()
        self._seconds.labels(call.route).observe(call.seconds)
        if call.first_s is not None:
            self._first.labels(call.model).observe(call.first_s)
        if call.tokens:
            self._tokens.labels(call.model, "prompt").inc(call.prompt_tokens)
            self._tokens.labels(call.model, "drawn").inc(call.completion_tokens)
        if call.why:
            self._routes.labels(call.why.split(" ")[0]).inc()

    def refused(self, code: str) -> None:
        """A request was too many."""
        self._refused.labels(code).inc()

    def under_way(self, requests: int) -> None:
        """So many are under way."""
        self._under_way.set(requests)

    def engine(self, load: Load | None) -> None:
        """What an engine says, when it is asked; None: it does not answer, and nothing is known of it."""
        self._load.clear()
        if load is None:
            return
        for what in ("rows", "adapters", "waiting", "held"):
            self._load.labels(what).set(getattr(load, what))

    def text(self) -> bytes:
        """All of it, in Prometheus's format."""
        return generate_latest(self._registry)
