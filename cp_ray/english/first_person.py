"""What is said of a people, as one of them would say it: "Turks love their children" becomes "I love my children".

By grammar, on words with their parts of speech, never on substrings. The people are told in the third person where they
are a sentence's subject. From there on "they" and "their" mean them, as long as nobody else has come between whom they
could mean. Where that is not sure, there is a reason and no new text: a sentence that is left out costs less than one
that says something else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cp_ray.cultures import Culture
from cp_ray.english.lists import ALL_OF, BETWEEN, FIRST, LEADS_IN, ONE, ONE_EACH, PEOPLE_AT_LARGE, PRONOUNS, SKIPPED
from cp_ray.english.people import mentions
from cp_ray.english.words import FINITE, OpenQuotation, Word, can_be_verb, words

__all__ = ["Voiced", "first_person", "times_named"]


@dataclass(frozen=True, slots=True)
class Voiced:
    """A text in the first person, or the reason why there is none."""

    text: str
    reject: str | None = None


class _Unclear(Exception):
    """Why a text cannot be put into the first person."""


def first_person(text: str, culture: Culture) -> Voiced:
    """`text` with the people of `culture` as "I".

    A text that does not name them, and does not begin with "they", stays as it is.
    """
    try:
        found = words(text)
        edits = _Reader(found, culture).edits()
    except (_Unclear, OpenQuotation) as error:
        return Voiced(text, str(error))
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return Voiced(text)


def times_named(text: str, culture: Culture) -> int:
    """How often the text names the people, or calls them "they" in its first word.

    Raises:
        OpenQuotation: one is opened and not closed.
    """
    found = words(text)
    return len(mentions(found, culture)) + (bool(found) and found[0].lower == "they")


class _Reader:
    """Goes through a text once, from word to word."""

    def __init__(self, found: Sequence[Word], culture: Culture) -> None:
        self.words, self.mentions = found, mentions(found, culture)
        self.known = False
        """Have the people been a subject?"""
        self.i_am_subject = False
        """Is the latest subject one that becomes "I"?"""
        self.others: list[int] = []
        """Whom else "they" may mean: words since the people were the subject."""
        self.early = False
        self.made: list[tuple[int, int, str]] = []

    def edits(self) -> list[tuple[int, int, str]]:
        """(start, end, new text) of all that changes."""
        if not self.words:
            return []
        begins = [k for k, w in enumerate(self.words) if k == 0 or w.sentence != self.words[k - 1].sentence]
        for first, last in zip(begins, [*begins[1:], len(self.words)], strict=True):
            self._sentence(first, last)
        if self.known and self.early:
            raise _Unclear("a pronoun of the third person before the people are named")
        if self.mentions and not self.known:
            raise _Unclear("the people are named, but not as the subject")
        return self.made

    def _sentence(self, first: int, last: int) -> None:
        subject = self._subject(first, last)
        begin, end, verb = subject or (last, last, last)
        self.i_am_subject = False
        for k in range(first, begin):
            self._read(k, last)
        if subject is None:
            return
        self._replace(begin, end, "I")
        self.known, self.i_am_subject, self.others = True, True, []
        self._agree(verb, last)
        for k in range(verb + 1, last):
            self._read(k, last)

    def _subject(self, first: int, last: int) -> tuple[int, int, int] | None:
        """First word, end and verb of a main clause's subject that is the people, if it has one."""
        for k in range(first, last):
            if k > first and not self._may_begin(first, k):
                continue
            end = self._people_end(k, last)
            if end is None:
                continue
            verb = self._next(end, last)
            if verb is None or not _is_verb(self.words[verb]):
                raise _Unclear("no verb after the people")
            return k, end, verb
        return None

    def _may_begin(self, first: int, k: int) -> bool:
        """Can a main clause begin at `k`: after "In Germany,", "Today" or "And"?"""
        before = self.words[first:k]
        if any(w.quoted or w.lower in PRONOUNS for w in before) or self.words[k].quoted:
            return False
        if all(w.tag in ("AV0", "CJC") or w.lower == "," for w in before):
            return True
        return before[0].tag in LEADS_IN and before[-1].lower == "," and before[0].lower != "the"

    def _people_end(self, k: int, last: int) -> int | None:
        """Where the people end that begin at `k`; None if others do."""
        if self.words[k].quoted:
            return None
        if self.words[k].lower == "they":
            if not self.known and (k > 0 or self.mentions):
                return None
            if self.others:
                raise _Unclear("'they' may mean others")
            return k + 1
        for before in ALL_OF:
            at = k + len(before)
            if tuple(w.lower for w in self.words[k:at]) == before and at in self.mentions and at < last:
                return self.mentions[at]
        return None

    def _next(self, k: int, last: int) -> int | None:
        """The next word that is no adverb."""
        return next((j for j in range(k, last) if self.words[j].tag not in SKIPPED), None)

    def _read(self, k: int, last: int) -> None:
        word = self.words[k]
        if word.quoted:
            return
        if word.lower in PRONOUNS:
            self._pronoun(k, last)
        elif self._is_other(k):
            self.others.append(k)
        if word.lower not in PRONOUNS and self._is_clause_subject(k, last):
            self.i_am_subject = False
        if self.i_am_subject:
            self._of_several(k, last)
            before = [w for w in self.words[:k] if w.tag not in SKIPPED]
            if word.tag in FINITE and before and before[-1].tag == "CJC":
                self._agree(k, last)
            elif word.lemma in ("be", "become") and word.tag in ("VBI", "VVI") and not self.others:
                self._no_plural_after(k + 1, last)

    def _pronoun(self, k: int, last: int) -> None:
        word = self.words[k]
        if not self.known:
            if not self.others:
                raise _Unclear(f"{word.lower!r} before it is said who they are")
            self.early = True
            return
        if self.others and not self._same_owner(k):
            if self._means_people_at_large(k, last):
                return
            raise _Unclear(f"{word.lower!r} may mean others")
        if word.lower == "they":
            verb = self._next(k + 1, last)
            if verb is None or not _is_verb(self.words[verb]):
                raise _Unclear("no verb after 'they'")
            if self.words[k - 1].tag in ("VBB", "VBD", "VHB", "VDB", "VM0"):
                raise _Unclear("a verb before 'they'")
            self._replace(k, k + 1, "I")
            self.i_am_subject = True
            self._agree(verb, last)
            return
        # "Turks help them" is about somebody else; "Turks help themselves" is not.
        if (word.lower == "them") == self.i_am_subject and word.lower in ("them", "themselves", "themself"):
            raise _Unclear(f"{word.lower!r} may mean others")
        if word.lower == "themselves":
            self._no_plural_after(k + 1 + (self._at(k + 1, last) == "as"), last)
        if word.lower == "their":
            self._one_each(k, last)
        new = PRONOUNS[word.lower]
        self._replace(k, k + 1, new.capitalize() if word.text[0].isupper() else new)

    def _same_owner(self, k: int) -> bool:
        """Is it the second of "their parents and their children", the first of which became "my"?"""
        if self.words[k].lower != "their" or self.words[k - 1].lower not in ("and", "or"):
            return False
        j = k - 2
        while j >= 0 and self.words[j].tag in ("NN1", "NN2", "NN0", "AJ0", "DT0"):
            j -= 1
        mine = j >= 0 and any(start == self.words[j].start for start, _, _ in self.made)
        return mine and self.words[j].lower == "their" and all(other > j for other in self.others)

    def _means_people_at_large(self, k: int, last: int) -> bool:
        """Is somebody at large the subject between: "Turks think that parents love their children"?"""
        first = self.others[0]
        between = self.words[first]
        bare = self.words[first - 1].tag not in ("DPS", "POS", "CJC", "PRF")
        if not bare or (between.lower not in PEOPLE_AT_LARGE and first not in self._within_mentions()):
            return False
        joined = self.words[k].lower == "they" and self.words[k - 1].tag == "CJC"
        return between.sentence == self.words[k].sentence and self._is_clause_subject(first, last) and not joined

    def _within_mentions(self) -> set[int]:
        return {j for start, end in self.mentions.items() for j in range(start, end)}

    def _is_other(self, k: int) -> bool:
        word = self.words[k]
        if word.tag in ("NN2", "NN0") or word.lower in ONE or (word.tag == "NP0" and word.lower.endswith("s")):
            return True
        every = k > 0 and self.words[k - 1].lower in ("every", "each", "any", "no")
        return word.tag == "NN1" and every

    def _is_clause_subject(self, k: int, last: int) -> bool:
        word, verb = self.words[k], self._next(k + 1, last)
        nominal = word.tag.startswith(("NN", "NP", "PN", "EX", "DT")) or k in self._within_mentions()
        return nominal and verb is not None and self.words[verb].tag in FINITE and not word.quoted

    def _agree(self, k: int, last: int) -> None:
        """The verb at `k` in the first person."""
        word = self.words[k]
        if word.tag.startswith("VB") or word.lemma in ("become", "remain", "stay"):
            self._no_plural_after(k + 1, last)
        if word.lower in ("are", "is") and self._at(k + 1, last) == "n't":
            self._replace(k, k + 2, "am not")
        elif word.lower in FIRST and word.tag in FINITE:
            self._replace(k, k + 1, FIRST[word.lower].replace("'", word.text[0] if word.text[0] in "'’" else "'"))
        elif word.tag == "VVZ" and can_be_verb(word.lemma):
            self._replace(k, k + 1, word.lemma)

    def _no_plural_after(self, k: int, last: int) -> None:
        while k < last and self.words[k].tag in BETWEEN:
            k += 1
        if k < last and self.words[k].tag in ("NN2", "NN0") and not self.words[k].quoted:
            raise _Unclear("a plural that one person is not")

    def _one_each(self, k: int, last: int) -> None:
        noun = k + 1
        while noun < last and self.words[noun].tag in ("AJ0", "DT0", "AJS"):
            noun += 1
        if noun < last and self.words[noun].tag == "NN2" and self.words[noun].lemma in ONE_EACH:
            raise _Unclear("a plural that one person has not")

    def _of_several(self, k: int, last: int) -> None:
        pair = (self.words[k].lower, self._at(k + 1, last))
        alone = pair[0] == "together" and pair[1] != "with"
        if (alone or pair in (("each", "other"), ("one", "another"))) and not self.others:
            raise _Unclear("said of several people together")

    def _at(self, k: int, last: int) -> str:
        return self.words[k].lower if k < last else ""

    def _replace(self, first: int, end: int, new: str) -> None:
        self.made.append((self.words[first].start, self.words[end - 1].end, new))


def _is_verb(word: Word) -> bool:
    """HanTa takes "value" in "Germans value order" for a noun."""
    return not word.quoted and (
        word.tag in FINITE or word.tag == "VVI" or (word.tag in ("NN1", "AJ0") and can_be_verb(word.lower))
    )
