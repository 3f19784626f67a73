"""One door for the local models: what each of them chooses on Ray Data is what it chooses alone."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cp_ray.arrow import from_table
from cp_ray.branches import Batch, Tree, collate_trees
from cp_ray.evals.choose import NOT_FINITE, TOO_LONG, LocalModels, choose, predicted
from cp_ray.evals.scorer import Asked, Scorer
from cp_ray.folder import Folder, open_folder
from cp_ray.records import Item, Message, Prediction
from tests.tiny import make_adapter, make_base

OPTIONS = ("yes", "no", "hard to say")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Folder]]:
    folder = tmp_path_factory.mktemp("models")
    base = make_base(folder / "base")
    adapters = {n: open_folder(str(make_adapter(base, folder / n, k))) for k, n in enumerate(("german", "arabic"))}
    return str(base), adapters


def items(n: int) -> list[Item]:
    return [
        Item(f"t/{k}", ("german", "greek")[k % 2], "t", (Message("user", f"{'so ' * k}?"),), OPTIONS) for k in range(n)
    ]


def chosen(rows: list[Item], models: tuple[str, dict[str, Folder]], *, everywhere: bool = True) -> list[Prediction]:
    local = LocalModels(models[0], tuple(models[1]), everywhere)
    return [p for table in choose(rows, local, models[1], workers=2) for p in from_table(table, Prediction)]


def test_every_model_answers_every_item_as_it_would_alone(
    ray_cluster: None, models: tuple[str, dict[str, Folder]]
) -> None:
    rows = items(70)  # two blocks
    found = {p.id: p for p in chosen(rows, models)}
    assert len(found) == 3 * 70
    alone = Scorer(*models)
    for name in (None, "german", "arabic"):
        for k in (0, 37, 69):
            ((shares,),) = alone.option_shares([Asked(rows[k].messages, OPTIONS, (name,))])
            row = found[f"{name or 'base'}/t/{k}"]
            assert row.probabilities == pytest.approx(shares, abs=1e-5)
            assert row.output == OPTIONS[shares.index(max(shares))]
    assert found["german/t/37"].probabilities != pytest.approx(found["arabic/t/37"].probabilities, abs=1e-3)


def test_numbers_that_are_not_finite_are_no_answer() -> None:
    row = predicted(items(1)[0], "german", (math.nan, math.nan))
    assert (row.output, row.probabilities, row.reject) == ("", (), NOT_FINITE)


def test_adapters_can_be_kept_to_their_own_culture_and_what_is_too_long_is_said(
    ray_cluster: None, models: tuple[str, dict[str, Folder]]
) -> None:
    long = Item("t/long", "greek", "t", (Message("user", "so " * 100),), OPTIONS)
    found = {p.id: p.reject for p in chosen([*items(2), long], models, everywhere=False)}
    assert found == {"base/t/0": None, "german/t/0": None, "base/t/1": None, "base/t/long": TOO_LONG}


def test_batches_of_any_size_give_the_same(models: tuple[str, dict[str, Folder]]) -> None:
    scorer = Scorer(*models)
    asked = [Asked(item.messages, item.options, (None, "german")) for item in items(12)]
    one, many = scorer.option_shares(asked, tokens=1), scorer.option_shares(asked, tokens=100_000)
    for a, b in zip(one, many, strict=True):
        assert [list(x) for x in a] == [pytest.approx(list(y), abs=1e-5) for y in b]


def test_questions_that_begin_alike_are_computed_together_and_answered_as_alone(
    models: tuple[str, dict[str, Folder]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one in two orders of its options, of which an adapter is asked one more."""
    words = (*("so " * 20 + end for end in ("yes no?", "no yes?", "no no?")), "no?", "yes")
    asked = [Asked((Message("user", text),), OPTIONS, (None, "german")) for text in words]
    asked.append(Asked(asked[0].messages, OPTIONS[:2], (None, "german", "arabic")))
    scorer, fed = Scorer(*models), []

    def counted(trees: Sequence[Tree], *more: Any) -> Batch:
        fed.append([len(tree.rows) for tree in trees])
        return collate_trees(trees, *more)

    monkeypatch.setattr("cp_ray.evals.scorer.collate_trees", counted)
    together = scorer.option_shares(asked, tokens=100_000)
    assert sorted(fed[0]) == [1, 1, 1, 3]
    for one, shares in zip(asked, together, strict=True):
        for model, own in zip(one.models, shares, strict=True):
            ((alone,),) = scorer.option_shares([Asked(one.messages, one.options, (model,))])
            assert own == pytest.approx(alone, abs=1e-5)
            assert len(own) == len(one.options)


@pytest.mark.long
def test_whole_models_are_asked_one_after_the_other_and_not_what_they_have_answered(
    ray_cluster: None, tmp_path: Path
) -> None:
    base, *own = (make_base(tmp_path / name, seed=k) for k, name in enumerate(("base", "german", "unified")))
    folders = {folder.name: open_folder(str(folder)) for folder in own}
    rows, local = items(4), LocalModels(str(base), tuple(folders), everywhere=False, whole=True)
    made = choose(rows, local, folders, workers=1, answered={("base", "t/0"), ("german", "t/2")})
    found = {p.id: p for table in made for p in from_table(table, Prediction)}
    assert list(found) == ["base/t/3", "base/t/2", "base/t/1", "german/t/0", *(f"unified/t/{k}" for k in (3, 2, 1, 0))]
    for name, source in (("base", base), *zip(folders, own, strict=True)):
        ((shares,),) = Scorer(str(source), {}).option_shares([Asked(rows[0].messages, OPTIONS, (None,))])
        if f"{name}/t/0" in found:
            assert found[f"{name}/t/0"].probabilities == pytest.approx(shares, abs=1e-5)
    assert found["german/t/0"].probabilities != pytest.approx(found["unified/t/0"].probabilities, rel=0.1)
