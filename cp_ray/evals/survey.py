"""The survey, put to models: what each answers to each culture's questions.

Every model gets the same chats: the question, put to a person of the culture, with the options in both orders and, if
asked for, in several wordings. Its answer is the mean over these. `alignment` sets the answers against the people's.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cp_ray.cultures import Culture, of
from cp_ray.errors import ConfigError
from cp_ray.evals.answer import came_to_none
from cp_ray.evals.choose import LocalModels, choose
from cp_ray.llm.contents import OnBase
from cp_ray.records import Item, Prediction, Seed
from cp_ray.survey.asking import FRAMES, ask

if TYPE_CHECKING:
    from cp_ray.folder import Folder
    from cp_ray.progress import Progress

__all__ = ["PredictConfig", "predict", "survey_answers", "survey_items"]


@dataclass(frozen=True)
class PredictConfig(OnBase):
    """Which models are asked, and for whose answers."""

    adapters: tuple[str, ...]
    """Ids of the cultures whose adapters are asked; the untrained base always is."""
    cultures: tuple[Culture, ...]
    """Of the seeds."""
    wordings: int = 1
    """Of the words around a question, the first being those that models are trained on."""
    whole: bool = False
    """As in `LocalModels`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.wordings <= len(FRAMES):
            raise ConfigError(f"wordings: must be between 1 and {len(FRAMES)}, got {self.wordings}")


def predict(
    seeds: Sequence[Seed],
    config: PredictConfig,
    folders: "Mapping[str, Folder]",
    *,
    workers: int,
    progress: "Progress | None",
) -> list[Prediction]:
    """What the base and each adapter, or whole model, answer to each seed; `workers` as in `choose`."""
    from cp_ray.arrow import from_table

    models = LocalModels(config.base_model, config.adapters, whole=config.whole)
    items = survey_items(seeds, config.cultures, config.wordings)
    made = choose(items, models, folders, workers=workers, progress=progress)
    return survey_answers((row for table in made for row in from_table(table, Prediction)), seeds)


def survey_items(seeds: Iterable[Seed], cultures: Sequence[Culture], wordings: int) -> list[Item]:
    """Each seed in each wording, with the options from either end of the scale."""
    return [
        Item(
            id=f"{seed.id}/{2 * frame + reverse}",
            culture=seed.culture,
            task=f"survey_{seed.split}",
            messages=ask(of(cultures, seed.culture), seed.question, seed.options, reverse=bool(reverse), frame=frame),
            options=seed.options,
            source=seed.question_id,
        )
        for seed in seeds
        for frame in range(wordings)
        for reverse in (0, 1)
    ]


def survey_answers(predictions: Iterable[Prediction], seeds: Sequence[Seed]) -> list[Prediction]:
    """What models chose in the survey's items, put together: one row a model and seed.

    A way of asking that brought no answer is left out of the mean; where none did, the row says why.
    """
    found: dict[tuple[str, str], dict[int, Prediction]] = defaultdict(dict)
    for p in predictions:
        seed_id, _, place = p.item.rpartition("/")
        found[seed_id, p.model][int(place)] = p
    by_id = {seed.id: seed for seed in seeds}
    return [_joined(by_id[id], model, ways) for (id, model), ways in sorted(found.items())]


def _joined(seed: Seed, model: str, ways: Mapping[int, Prediction]) -> Prediction:
    given = [ways[k] for k in sorted(ways)]
    said = [p for p in given if not came_to_none(p)]
    asked = tuple(p.probabilities for p in given if p.probabilities)
    shares = tuple(sum(column) / len(asked) for column in zip(*asked, strict=True))
    return Prediction(
        id=f"{model}/{seed.id}",
        model=model,
        culture=seed.culture,
        task=f"survey_{seed.split}",
        item=seed.question_id,
        output=seed.options[shares.index(max(shares))] if shares else "",
        probabilities=shares,
        # Gaps between ways of asking are told where every way brought an answer.
        asked=asked if len(asked) == len(given) else (),
        lost=sum(p.lost for p in said) / len(said) if said else 0.0,
        way=given[0].way,
        reject=None if shares else (said or given)[0].reject,
    )
