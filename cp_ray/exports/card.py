"""The card of an exported dataset: what it is, where it comes from, what its users owe, what it cannot tell."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from cp_ray.cultures import Culture
from cp_ray.exports.config import ALL, ExportConfig, Made
from cp_ray.records import Example, Seed
from cp_ray.stages.examples import check_split

__all__ = ["dataset_card"]

_CARD = """\
# Chats that answer as people of {n} {cultures} do

Training rows for language models that understand a culture: chats in which the assistant answers a survey question as
people of a culture do, or gives an opinion of theirs. Made by cp_ray after CultureLLM (arXiv:2402.10946) and
CulturePark (arXiv:2405.15145).

{load}

A row is a chat (`messages`: `role`, `content`), its `culture`, its `kind`, the `question_id` of the survey, and
`parents`, the rows it was made from. A row of kind `answer` is a survey answer, drawn in proportion to what the
culture's people really answered, unless it is said of the step `examples` below that a share of it is their mean on
the scale; half of them see the options in reverse order. A row of kind `mixed` answers a question made of two. A row of
kind `opinion` was written by a language model and was judged to agree with the survey. Every system prompt names the
culture, so that `{all}` serves for one model of all cultures; its rows are mixed, in an order that is always the same.

## Rows

{words}

{counts}

## Where it comes from

{origin}

{steps}

## Held-out questions

{heldout}

## Licences

{licences}

## Limits

- A country is not a culture, and a survey's average is nobody. Where a culture has several countries each weighs the
  same. Not for decisions about a person.
- {respondents}
- Answers are drawn with chance: few rows of a question do not show its whole distribution.
- {written}
"""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def dataset_card(seeds: Sequence[Seed], examples: Sequence[Example], made: Made, config: ExportConfig) -> str:
    """A Hugging Face dataset card, as Markdown after YAML; its `configs` are what `load_dataset` takes.

    Raises:
        ValueError: a training row holds a held-out question.
    """
    body = _CARD.format(
        n=len(config.cultures),
        cultures="cultures" if len(config.cultures) > 1 else "culture",
        all=ALL,
        load=_load(examples),
        counts=_counts(examples, config.cultures),
        words=_words(examples, made),
        origin=_origin(made, config),
        steps=_steps(made),
        heldout=_heldout(seeds, examples),
        licences=_licences(examples, made, config),
        respondents=_respondents(seeds),
        written=_written(examples, made),
    )
    return f"---\n{_front_matter(examples, made, config)}---\n{body}"


def _front_matter(examples: Sequence[Example], made: Made, config: ExportConfig) -> str:
    import yaml

    found = [ALL, *(c.id for c in config.cultures if any(e.culture == c.id for e in examples))] if examples else []
    splits = {name: dict.fromkeys(e.split for e in examples if name in (ALL, e.culture)) for name in found}
    head: dict[str, Any] = {
        "pretty_name": f"Chats after {config.survey.name}",
        "language": _codes(made, config.cultures),
        "license": "other",
        "license_name": "survey-and-teacher-terms",
        "task_categories": ["text-generation"],
        "tags": ["culture", "survey", "synthetic", "cp_ray"],
        "size_categories": [next((size for n, size in _SIZES if len(examples) < n), "n>1M")],
    }
    if found:
        head["configs"] = [
            {
                "config_name": name,
                **({"default": True} if name == ALL else {}),
                "data_files": [{"split": split, "path": f"data/{name}/{split}.parquet"} for split in splits[name]],
            }
            for name in found
        ]
    text: str = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    return text


def _codes(made: Made, cultures: Sequence[Culture]) -> list[str]:
    """ISO 639 codes of the languages that the chats are in."""
    own = [culture.locales[0].partition("-")[0] for culture in cultures if made.has("translate")]
    return list(dict.fromkeys(["en", *own]))


def _words(examples: Sequence[Example], made: Made) -> str:
    """In whose words the questions are, and in which languages."""
    reworded = sum(_is_reworded(e) for e in examples)
    wordings = (
        f"The questions of {reworded:,} rows are in other words than the survey's, by the teacher, and were judged to "
        "ask the same"
        if reworded
        else "The questions are in the words of the survey that was read"
    )
    if made.has("translate"):
        return (
            f"{wordings}. Questions and answers are in each culture's own language, translated by the teacher and not "
            "checked by people; system prompts, and what is asked about opinions, are in English."
        )
    return f"The chats are in English. {wordings}. The languages below are those of the people who were asked."


def _is_reworded(example: Example) -> bool:
    """Is it an answer to a question in other words? Its wording is a parent beside the seed."""
    return example.kind == "answer" and len(example.parents) > 1


def _load(examples: Sequence[Example]) -> str:
    if not examples:
        return "There are no rows: the run that this comes from made no training row."
    return (
        "```python\nimport datasets\n\n"
        f'datasets.load_dataset("FOLDER")  # every culture\n'
        f'datasets.load_dataset("FOLDER", "{min(e.culture for e in examples)}")\n```'
    )


def _counts(examples: Sequence[Example], cultures: Sequence[Culture]) -> str:
    kinds = sorted({e.kind for e in examples})
    counted = Counter((e.culture, e.kind) for e in examples)
    lines = [
        (c.id, c.language, ", ".join(c.countries), *(str(counted[c.id, k]) for k in kinds),
         str(sum(counted[c.id, k] for k in kinds)))
        for c in cultures
    ]  # fmt: skip
    return _table(("culture", "language", "countries", *kinds, "rows"), lines)


def _origin(made: Made, config: ExportConfig) -> str:
    teachers = ", ".join(f"`{name}`" for name in made.teachers)
    asked = f"The teacher: {teachers}." if teachers else "No language model was asked."
    return f"The survey: {config.survey.name}. {asked} The steps, with the rows that each kept and set aside:"


def _steps(made: Made) -> str:
    lines = [
        (m.name, str(m.rows), "; ".join([*(f"{n} {reason}" for reason, n in m.rejects.items()), *m.remarks]),
         m.fingerprint)
        for m in made.steps
    ]  # fmt: skip
    return _table(("step", "rows", "set aside", "fingerprint"), lines)


def _heldout(seeds: Sequence[Seed], examples: Sequence[Example]) -> str:
    pairs = check_split(examples, seeds)
    ids = dict.fromkeys(s.question_id for s in seeds if s.split == "heldout")
    return (
        f"Kept for the test, in every culture alike: {', '.join(ids) or 'none'} ({len(ids)} in all). The split is by "
        "question, before any row is made. Every row was held against every one of them, by its id and by its words "
        f"({pairs:,} pairs): none holds one."
    )


def _licences(examples: Sequence[Example], made: Made, config: ExportConfig) -> str:
    terms = config.survey.terms or "The survey is its owner's; ask there before the rows are passed on."
    lines = [f"- {terms}"]
    if made.teachers and (made.has("translate") or any(e.kind == "opinion" or _is_reworded(e) for e in examples)):
        lines.append(
            f"- What a language model wrote comes under the terms of {', '.join(made.teachers)}: some providers forbid "
            "training a competing model on it."
        )
    return "\n".join(lines)


def _respondents(seeds: Sequence[Seed]) -> str:
    told = [s.respondents for s in seeds if s.split == "train" and s.respondents]
    if not told:
        return "Small samples: the survey does not tell how many people stand behind an answer."
    people = f"between {min(told):,} and {max(told):,} people"
    return f"Small samples: {people} stand behind a culture's answers to a question."


def _written(examples: Sequence[Example], made: Made) -> str:
    opinions = sum(e.kind == "opinion" for e in examples)
    reworded = sum(_is_reworded(e) for e in examples)
    mixed = sum(e.kind == "mixed" for e in examples)
    said = []
    if mixed:
        said.append(
            f"{mixed:,} rows ask what nobody was asked: the beginning of one question and the end of another, answered "
            "with the mean of the answers to both."
        )
    if opinions:
        said.append(
            f"{opinions:,} of {len(examples):,} rows were written by a language model: they may be wrong, one-sided, "
            "or stereotypes of the people they speak for."
        )
    if reworded or made.has("translate"):
        what = "translated" if made.has("translate") else "worded"
        said.append(f"What a language model {what} may ask something slightly else than the survey did.")
    return " ".join(said) or (
        "No row was written by a language model; with answers alone a model learns options, and no reasons."
    )


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = "|".join("---" for _ in head)
    rows = ("|".join(f" {cell.replace('|', '&#124;')} " for cell in line) for line in (head, *lines))
    shown = [f"|{row}|" for row in rows]
    return "\n".join([shown[0], f"|{rule}|", *shown[1:]])
