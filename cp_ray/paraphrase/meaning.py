"""Does a text ask the same as the question it was made from?

Sentence similarity alone does not tell: a negated sentence is as near to its seed as a paraphrase is. So a text passes
when its sentence vector is near, when its words show no reversal, other number or quantity, exchanged role or other
mood (`rules`), and when it is likely to say the same by what became of each word (`alignment`) and by how odd it looks
to a language model (`surprise`). How likely is a logistic function fitted on labelled pairs:
`python -m benchmarks.paraphrase_filter --fit`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cp_ray.embedding import Embedder
from cp_ray.errors import ConfigError
from cp_ray.paraphrase.alignment import Alignment, align, read
from cp_ray.paraphrase.rules import difference
from cp_ray.paraphrase.surprise import Surprise

__all__ = ["WEIGHTS", "Judgement", "Meaning", "MeaningConfig", "features"]

WEIGHTS = (-8.8467, 2.6579, -0.4688, 1.1975, -1.4003, -5.6672)
INTERCEPT = 1.4112
"""Of `features`, as fitted on benchmarks/paraphrases/seen.jsonl."""


@dataclass(frozen=True)
class MeaningConfig:
    """How near a text must be."""

    tau: float = 0.8
    """Least cosine of the two sentence vectors."""
    sureness: float = 0.5
    """Least probability of the same meaning; 0 leaves out that test, and the rules."""
    embedder: str = "minilm"
    """`minilm`: the embedded all-MiniLM-L6-v2; otherwise a name or folder for sentence-transformers."""
    model: str = "smollm2"
    """The language model that is surprised; the weights were fitted with this one."""

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
        self._surprise = Surprise(config.model) if config.sureness else None

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        """Each pair of a seed and a text made from it; those that are too far are not looked at any closer."""
        judged, near = self._judge_words(pairs)
        if self._surprise is None:
            return judged
        surprises = self._surprise.of([pairs[k] for k in near])
        for (k, alignment), surprise in zip(near.items(), surprises, strict=True):
            sureness = _probability(features(alignment, surprise))
            reject = "likely to say something else" if sureness < self.config.sureness else None
            judged[k] = Judgement(judged[k].similarity, reject, round(sureness, 4))
        return judged

    def _judge_words(self, pairs: Sequence[tuple[str, str]]) -> tuple[list[Judgement], dict[int, Alignment]]:
        """What vectors and words tell, and the alignments of those pairs that are still in question."""
        texts = sorted({text for pair in pairs for text in pair}, key=lambda text: (len(text), text))
        known = read(texts, self._embedder.model)
        judged, near = [], {}
        for k, (seed, text) in enumerate(pairs):
            one, other = known[seed], known[text]
            similarity = round(float(one.sentence @ other.sentence), 4)
            reject = "too far from the question" if similarity < self.config.tau else None
            if reject is None and self._surprise is not None:
                reject = difference(one.words, other.words)
            if reject is None:
                near[k] = align(one, other)
            judged.append(Judgement(similarity, reject))
        return judged, near


def features(alignment: Alignment, surprise: tuple[float, float]) -> tuple[float, ...]:
    """What the probability is made of."""
    greatest, mean = surprise
    unpaired = len(alignment.lost) + len(alignment.added)
    return (
        sum(1 - cosine for cosine in alignment.added) / max(1, alignment.words),
        min(alignment.pairs, default=1.0),
        greatest,
        mean,
        float(len(alignment.pairs) == 1 and not unpaired),  # one word for another, and all else the same
        float(bool(alignment.lost) and not alignment.pairs and not alignment.added),  # words lost, and none is new
    )


def _probability(values: Sequence[float]) -> float:
    total = INTERCEPT + sum(weight * value for weight, value in zip(WEIGHTS, values, strict=True))
    return 1 / (1 + math.exp(-total))
