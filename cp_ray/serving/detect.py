"""Which of the served languages a message is in, if that is sure; most languages are not served."""

import re
from collections.abc import Iterable

__all__ = ["LanguageOf"]

_MASS = 0.05
"""Probability, among all languages that are known, that it is one of the served: relatives that are spoken by few
(Galician, Luxembourgish) take much of it from short texts."""
_LEAD = 0.5
"""Probability of the likeliest among the served."""
_NO_LANGUAGE = re.compile(r"https?://\S+|@\w[\w.]*|#|<\w+>|&\w+;")
_CHARACTERS = 2_000
"""Read of a message; more tell nothing new."""


class LanguageOf:
    """Tells the language by py3langid, first among all that it knows, then among those served."""

    def __init__(self, served: Iterable[str]) -> None:
        """Load the classifier, in a second; `served`: ISO 639 codes."""
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self._served = frozenset(served) & set(self._identifier.labels)

    def __call__(self, text: str) -> str | None:
        """The language's code; None where it is not sure, or where none of the served is it."""
        words = _NO_LANGUAGE.sub(" ", text[:_CHARACTERS]).lower()  # capitals are rare in what it has learnt from
        if not any(character.isalpha() for character in words):
            return None
        ranked = self._identifier.rank(words)
        among = [(code, float(probability)) for code, probability in ranked if code in self._served]
        mass = sum(probability for _, probability in among)
        if not among or mass < _MASS or among[0][1] < _LEAD * mass:
            return None
        return str(among[0][0])
