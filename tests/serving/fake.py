"""A backend that needs no model: it says the last thing it was told in capital letters."""

from collections.abc import AsyncIterator, Callable

from cp_ray.serving.chat import (
    BadRequest,
    ChatRequest,
    ChatResult,
    ContextTooLong,
    Load,
    ModelSpec,
    Piece,
    TokenLogprob,
    whole,
)

MODELS = (
    ModelSpec("german", "a/german", "german", "German", "You are German.", ("de", "de-DE"), ("de",)),
    ModelSpec("arabic", "a/arabic", "arabic", "Arabic", "", ("ar", "ar-EG"), ()),
    ModelSpec("base"),
)


class Fake:
    """Notes what it was asked; some texts make it fail."""

    def __init__(self) -> None:
        self.asked: list[ChatRequest] = []
        self.forgotten: list[str] = []
        self.busy: Load | None = Load(0, 0, 0, 0)

    async def complete(self, request: ChatRequest, heard: Callable[[Piece], None] = lambda _: None) -> ChatResult:
        """Answer with five tokens of prompt, and one drawn for each character."""
        told = []
        async for piece in self.stream(request):
            heard(piece)
            told.append(piece)
        return whole(told)

    async def stream(self, request: ChatRequest) -> AsyncIterator[Piece]:
        """Answer a character at a time."""
        self.asked.append(request)
        text = request.messages[-1].content if request.text is None else request.text
        if text == "long":
            raise ContextTooLong("messages: 9000 tokens do not fit the model's context of 8192")
        if text == "break":
            raise RuntimeError("secret path")
        if text == "gone":
            raise ConnectionError("no engine answers")
        if request.labels:
            yield Piece("", "stop", 5, labels=self.labels(request))
            return
        if not text:
            yield Piece("", "stop", 5)
        for k, letter in enumerate(text.upper(), 1):
            if text == "snap" and k == 3:
                raise ConnectionError("the engine is gone; ask again")
            if text == "crash" and k == 3:
                raise RuntimeError("secret path")
            if text == "cease" and k == 3:
                return
            told = (TokenLogprob(letter, -0.5, ((letter, -0.5), ("J", -1.5))[: request.logprobs]),)
            logprobs = told if request.logprobs is not None else ()
            yield Piece(letter, "length" if k == len(text) else "", 5, k, 0, logprobs)

    def labels(self, request: ChatRequest) -> tuple[float, ...]:
        """Log-probabilities of labels."""
        return tuple(-1.0 - k for k in range(len(request.labels)))

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """Vectors of two dimensions."""
        return [[float(len(text)), 1.0] for text in texts]

    async def check(self, name: str, adapter: str) -> None:
        """Refuse what is called bad."""
        if "bad" in adapter:
            raise BadRequest(f"adapter: {name} does not fit")

    async def forget(self, name: str) -> None:
        """Note it."""
        self.forgotten.append(name)

    async def load(self) -> Load | None:
        """As told."""
        return self.busy
