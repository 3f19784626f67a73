"""Does a text ask the same as the question it was made from?

Sentence similarity alone does not tell: a negated sentence is as near to its seed as a paraphrase is. So five things
are looked at: the sentence vectors, what the words say otherwise (`rules`), in which order they say it and of whom
(`order`, `roles`), what became of each word (`alignment`), and how odd the text looks to a language model that has just
read the question, to which wrong words stand out. A forest of decision trees, grown from labelled pairs, makes a
probability of them. The pairs' figures are in pairs.csv, and the trees are grown when it is loaded, in a second:
`python -m benchmarks.paraphrase_filter --fit` writes that file.
"""

import csv
import functools
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

from cp_ray.embedding import Embedder
from cp_ray.errors import ConfigError
from cp_ray.likelihood import Likelihood
from cp_ray.paraphrase.alignment import Alignment, Reading, align, read
from cp_ray.paraphrase.order import ORDER, order
from cp_ray.paraphrase.roles import ROLES, roles
from cp_ray.paraphrase.rules import Signs, compare

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FEATURES", "Judgement", "Meaning", "MeaningConfig", "bare", "measured_pairs", "new_forest"]

FEATURES = (
    "similarity", "sign", "turned", "reversals", "seed_negations", "text_negations", "opposites", "exchanged",
    "pairs", "pairs_cost", "worst_pair", "lost", "lost_cost", "added", "added_cost", "one_exchanged", "only_lost",
    "surprise", "mean_surprise", *ORDER, *ROLES,
)  # fmt: skip
"""What the probability is made of."""

_TREES, _LEAF, _TRIED = 400, 3, 6
"""Trees, pairs in a leaf at least, features that a split chooses among."""
_PAIRS = resources.files("cp_ray.paraphrase").joinpath("pairs.csv")


def _pairs_digest() -> str:
    return hashlib.sha256(_PAIRS.read_bytes()).hexdigest()[:16]


@dataclass(frozen=True)
class MeaningConfig:
    """How near a text must be."""

    tau: float = 0.8
    """Least cosine of the two sentence vectors."""
    sureness: float = 0.6
    """Least probability of the same meaning; 0 leaves that test out. At 0.6 cross-validation finds 0.9 precision."""
    embedder: str = "minilm"
    """`minilm`: the embedded all-MiniLM-L6-v2; otherwise a name or folder for sentence-transformers."""
    model: str = "smollm2"
    """The language model that is surprised; the pairs were measured with this one."""
    pairs: str = field(default_factory=_pairs_digest)
    """Digest of the labelled pairs: what was judged by other ones is judged again."""

    def __post_init__(self) -> None:
        for name in ("tau", "sureness"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: must be between 0 and 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of one text."""

    similarity: float
    """Cosine of the two sentence vectors."""
    reject: str | None
    """Why it does not ask the same; None if it does."""
    sureness: float = 0.0
    """Probability of the same meaning; 0 where it was not asked for."""


class Meaning:
    """Judges texts. Loads the sentence embedder and the language model once."""

    def __init__(self, config: MeaningConfig) -> None:
        self.config = config
        self._embedder = Embedder(config.embedder)
        self._likelihood = Likelihood(config.model) if config.sureness else None

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        """Each pair of a seed and a text made from it; those that are too far are not looked at any closer."""
        pairs = [(bare(seed), bare(text)) for seed, text in pairs]
        known = self._read(pairs)
        near = [round(float(known[a].sentence @ known[b].sentence), 4) for a, b in pairs]
        judged = [Judgement(s, "too far from the question" if s < self.config.tau else None) for s in near]
        left = [k for k, judgement in enumerate(judged) if judgement.reject is None]
        if self._likelihood is None or not left:
            return judged
        some = [pairs[k] for k in left]
        signs = [compare(known[a].words, known[b].words) for a, b in some]
        sure = _forest().predict_proba(self._measured(some, known, signs))[:, 1]
        for k, sign, probability in zip(left, signs, sure.round(4).tolist(), strict=True):
            reason = None if probability >= self.config.sureness else sign.reason or "likely to ask something else"
            judged[k] = Judgement(near[k], reason, probability)
        return judged

    def features(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, ...]]:
        """`FEATURES` of each pair, whatever its similarity."""
        pairs = [(bare(seed), bare(text)) for seed, text in pairs]
        known = self._read(pairs)
        return self._measured(pairs, known, [compare(known[a].words, known[b].words) for a, b in pairs])

    def _read(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Reading]:
        texts = sorted({text for pair in pairs for text in pair}, key=lambda text: (len(text), text))
        return read(texts, self._embedder.model)

    def _measured(
        self, pairs: Sequence[tuple[str, str]], known: dict[str, Reading], signs: Sequence[Signs]
    ) -> list[tuple[float, ...]]:
        assert self._likelihood is not None
        surprises = self._likelihood([text for _, text in pairs], [f"{seed}\n" for seed, _ in pairs])
        return [
            (
                *_features(float(known[a].sentence @ known[b].sentence), sign, align(known[a], known[b]), nats),
                *(round(value, 4) for of in (order, roles) for value in of(known[a].words, known[b].words)),
            )
            for (a, b), sign, nats in zip(pairs, signs, surprises, strict=True)
        ]


def bare(text: str) -> str:
    """A question without what tells of its scale: `from 1 (completely disagree) to 10 (completely agree)`."""
    return " ".join(_SCALE.sub(" ", _ASIDE.sub(" ", text)).split()) or text


_ASIDE = re.compile(r"\([^()]*\)")
_SCALE = re.compile(
    r"(?:\bon a scale (?:of|from) |\bfrom |\bbetween )?\b(?:0|1|zero|one)\s+(?:to|and)\s+(?:5|7|10|100|five|ten)\b,?",
    re.IGNORECASE,
)


def _features(similarity: float, signs: Signs, alignment: Alignment, nats: "NDArray[np.float32]") -> tuple[float, ...]:
    pairs, lost, added = alignment.pairs, alignment.lost, alignment.added
    values = (
        similarity, signs.reason is not None, signs.reversals % 2, signs.reversals, *signs.negations, signs.opposites,
        signs.exchanged, len(pairs), _cost(pairs, alignment), min(pairs, default=1.0), len(lost),
        _cost(lost, alignment), len(added), _cost(added, alignment),
        len(pairs) == 1 and not lost and not added,  # one word for another, and all else the same
        bool(lost) and not pairs and not added,  # words lost, and none is new
        *((nats.max(), nats.mean()) if len(nats) else (0.0, 0.0)),
    )  # fmt: skip
    return tuple(round(float(value), 4) for value in values)


def _cost(cosines: Sequence[float], alignment: Alignment) -> float:
    return sum(1 - cosine for cosine in cosines) / max(1, alignment.words)


def measured_pairs() -> tuple[list[list[float]], list[bool]]:
    """`FEATURES` of the labelled pairs, in their order, and whether each asks the same."""
    rows = list(csv.DictReader(_PAIRS.read_text(encoding="utf-8").splitlines()))
    return [[float(row[name]) for name in FEATURES] for row in rows], [row["same"] == "1" for row in rows]


def new_forest() -> Any:
    """A forest, not grown yet."""
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(_TREES, min_samples_leaf=_LEAF, max_features=_TRIED, random_state=0)


@functools.cache
def _forest() -> Any:
    return new_forest().fit(*measured_pairs())
