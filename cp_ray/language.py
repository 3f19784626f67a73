"""Which language a text is in, by py3langid: naive Bayes over pieces of bytes, offline, 0.15 ms a sentence.

It is told which languages there may be. Among a few, a text in any other is taken for one of them; so those of all
cultures are told apart, whichever are in the run.
"""

from collections.abc import Iterable, Sequence

from cp_ray.cultures import Culture

__all__ = ["UNDETERMINED", "Languages", "codes_of"]

UNDETERMINED = "und"
"""ISO 639-2's code where nothing tells."""

_BY_CHANCE = 1.5
"""Times the probability that each has by chance: what is not likelier than that is undetermined."""


def codes_of(cultures: Iterable[Culture]) -> tuple[str, ...]:
    """The languages of these cultures, and English: the first part of each culture's commonest locale, sorted."""
    return tuple(sorted({"en", *(culture.locales[0].split("-")[0].lower() for culture in cultures)}))


class Languages:
    """Tells languages apart."""

    def __init__(self, codes: Sequence[str]) -> None:
        """Load the classifier, in a second.

        `codes`: ISO 639, English among them; those that it does not know are left out.
        """
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self._identifier.set_languages(set(codes) & set(self._identifier.labels))
        self._least = _BY_CHANCE / len(self._identifier.labels)

    def __call__(self, text: str) -> tuple[str, float]:
        """The likeliest language's code, or `und`, and its probability."""
        code, probability = self._identifier.classify(text)
        return (code if probability > self._least else UNDETERMINED), float(probability)
