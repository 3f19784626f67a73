"""The VSM's formulas by hand, the published file whole, and planted respondents."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from cp_ray.cultures import CULTURES
from cp_ray.errors import ConfigError
from cp_ray.evals.choose import predicted
from cp_ray.evals.hofstede.figures import figures
from cp_ray.evals.hofstede.formulas import DIMENSIONS, indices, read_published
from cp_ray.evals.hofstede.items import HofstedeConfig, hofstede_items, read_items
from cp_ray.evals.hofstede.scores import ALL, HofstedeScoring, Truth, hofstede_scores, published_of
from cp_ray.evals.intervals import studentised
from cp_ray.records import Item, Prediction, Score

THREE = tuple(CULTURES[c] for c in ("german", "korean", "turkish"))
ITEMS = hofstede_items(HofstedeConfig(THREE, read_items()))


def test_the_formulas_by_hand() -> None:
    answers = np.full(24, 3.0)
    answers[[1, 2, 3, 4, 5]] = 1, 2, 5, 4, 1  # m02 to m06
    answers[[7, 9]] = 4, 2  # m08, m10
    pdi, idv, mas, uai, lto, ivr = indices(answers)
    assert (pdi, idv) == (35 * (3 - 1) + 25 * 0, 35 * (5 - 3) + 35 * (3 - 1))
    # Both terms of MAS weigh 35; the originals have 25 for the second and come to 120.
    assert mas == 35 * (4 - 2) + 35 * (4 - 2) == 140
    assert (uai, lto, ivr) == (0, 0, 0)


def test_they_equal_those_written_out_on_random_answers() -> None:
    for row in np.random.default_rng(0).uniform(1, 5, (50, 24)):
        m = dict(enumerate(row, 1))
        by_hand = [
            35 * (m[7] - m[2]) + 25 * (m[20] - m[23]), 35 * (m[4] - m[1]) + 35 * (m[9] - m[6]),
            35 * (m[5] - m[3]) + 35 * (m[8] - m[10]), 40 * (m[18] - m[15]) + 25 * (m[21] - m[24]),
            40 * (m[13] - m[14]) + 25 * (m[19] - m[22]), 35 * (m[12] - m[11]) + 40 * (m[17] - m[16]),
        ]  # fmt: skip
        assert list(indices(row)) == pytest.approx(by_hand, abs=1e-9)


def test_a_missing_answer_is_missing_and_not_10() -> None:
    answers = np.full((2, 24), 3.0)
    answers[0, 12] = np.nan  # m13, one of LTO's
    found = indices(answers)
    assert list(np.isnan(found[0])) == [False, False, False, False, True, False]
    assert not np.isnan(found[1]).any()


def test_all_rows_of_the_published_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    rows = [f"C{k:02};Country {k};{k};{k + 1};#NULL!;5;#NULL!;7" for k in range(109)]
    rows += ["ARA;Arab countries;80;38;53;68;23;34", "JOR;Jordan;#NULL!;#NULL!;#NULL!;#NULL!;16;43"]
    path.write_text("\n".join(["ctr;country;pdi;idv;mas;uai;ltowvs;ivr", *rows]) + "\n", encoding="utf-8-sig")
    found = read_published(path)
    assert len(found) == 111
    assert found["Country 4"].scores == {"pdi": 4, "idv": 5, "uai": 5, "ivr": 7}
    assert found["Jordan"].scores == {"lto": 16, "ivr": 43}
    # Arabic has a row of its region, with all six, where the originals take Jordan's two.
    (arabic, french) = published_of(found, {"arabic": CULTURES["arabic"].hofstede, "french": ""})
    assert arabic.scores == (80, 38, 53, 68, 23, 34)
    assert french.scores == (None,) * 6
    with pytest.raises(ConfigError, match="no row 'Atlantis' among 111"):
        published_of(found, {"x": "Atlantis"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ctr;country;pdi;idv;mas;uai;ltowvs;ivr\nA;A;high;1;1;1;1;1\n", "line 2 must have"),
        ("country,pdi\nA,1\n", "line 2 must have"),
        ("ctr;country;pdi;idv;mas;uai;ltowvs;ivr\nA;A;nan;1;1;1;1;1\n", "line 2 must have"),
        ("ctr;country;pdi;idv;mas;uai;ltowvs;ivr\nA;A;1;inf;1;1;1;1\n", "line 2 must have"),
        ("ctr;country;pdi;idv;mas;uai;ltowvs;ivr\n" + "A" * 200_000 + ";A;1;1;1;1;1;1\n", "cannot be read"),
        ("ctr;country;pdi;idv;mas;uai;ltowvs;ivr\n", "no row"),
        ("ctr;country;pdi;idv;mas;uai;ltowvs;ivr\n" + "A;A;1;1;1;1;1;1\n" * 2, "a second time"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "published.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_published(path)


def test_respondents_are_thirty_different_people_who_are_the_same_in_every_culture() -> None:
    assert len(ITEMS) == 3 * 30 * 24
    people = {c.id: [i.messages[0].content for i in ITEMS if i.culture == c.id][::24] for c in THREE}
    assert people["german"][0].startswith("You are German. You are ")
    assert len(set(people["german"])) == 30
    assert [p.partition(". ")[2] for p in people["german"]] == [p.partition(". ")[2] for p in people["korean"]]
    assert sum(" a woman," in p for p in people["german"]) == 15
    assert ITEMS[0].messages[1].content.endswith("it hardly matters")
    assert ITEMS[24].messages[1].content.endswith("it matters most of all")
    with pytest.raises(ConfigError, match="at least 30 of each culture, got 5"):
        HofstedeConfig(THREE, read_items(), respondents=5)


@pytest.mark.parametrize("text", ["question,options,number\nIs it?,agree\n", "number\n" + "1" * 200_000 + "\n"])
def test_items_that_cannot_be_read_are_told_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "items.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"hofstede-items: .* cannot be read"):
        read_items(path)


def test_a_user_s_items_take_the_place_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    lines = [f"{k},Item {k}?,a|b|c|d|e" for k in range(1, 25)]
    path.write_text("\n".join(["number,question,options", *lines]))
    assert read_items(path)[4].question == "Item 5?"
    assert read_items(path)[4].options == ("a", "b", "c", "d", "e")
    path.write_text("\n".join(["number,question,options", *lines[:-1]]))
    with pytest.raises(ConfigError, match="items 1 to 24"):
        read_items(path)
    path.write_text("number,question,options\n1,Q?,a|b\n")
    with pytest.raises(ConfigError, match="five different options, got 2"):
        read_items(path)


# What the people of three made-up cultures answer to each item.
ANSWERS = {c.id: np.random.default_rng(k).integers(1, 6, 24) for k, c in enumerate(THREE)}
TRUTH = tuple(Truth(c, tuple(float(v) + 50 for v in indices(a))) for c, a in ANSWERS.items())


def answered(model: str, say: Callable[[Item], int | None]) -> list[Prediction]:
    rows = []
    for item in ITEMS:
        said = say(item)
        rows.append(predicted(item, model, tuple(float(k == said) for k in range(1, 6)) if said else ()))
    return rows


def scored(*planted: tuple[str, Callable[[Item], int | None]]) -> dict[tuple[str, str, str], Score]:
    rows = [p for model, say in planted for p in answered(model, say)]
    found = hofstede_scores(rows, HofstedeScoring(TRUTH, resamples=200))
    return {(s.model, s.culture, s.metric): s for s in found}


def own(item: Item) -> int:
    return int(ANSWERS[item.culture][int(item.source) - 1])


def test_planted_respondents_get_the_scores_worked_out_by_hand() -> None:
    found = scored(("perfect", own), ("reversed", lambda item: 6 - own(item)), ("refuses", lambda item: None))
    raw = {c: indices(a) for c, a in ANSWERS.items()}
    for culture in raw:
        assert found["perfect", culture, "distance"].value == pytest.approx(0, abs=1e-9)
        assert found["perfect", culture, "mas"].value == pytest.approx(raw[culture][2] + 50)
        others = [raw[c] + 50 for c in raw if c != culture]
        # The constant answerer has the others' mean; the reversed one turns every index over.
        gaps = np.mean(others, axis=0) - raw[culture] - 50
        assert found["constant", culture, "distance"].value == pytest.approx(np.sqrt((gaps**2).mean()))
        assert found["reversed", culture, "distance"].value == pytest.approx(2 * np.sqrt((gaps**2).mean()))
    for d, name in enumerate(DIMENSIONS):
        x, y = [raw[c][d] for c in raw], [t.scores[d] for t in TRUTH]
        assert found["perfect", ALL, f"pearson_{name}"].value == pytest.approx(pearsonr(x, y).statistic)
        assert found["perfect", ALL, f"spearman_{name}"].value == pytest.approx(spearmanr(x, y).statistic)
        assert found["reversed", ALL, f"pearson_{name}"].value == pytest.approx(-1)
        assert ("constant", ALL, f"pearson_{name}") not in found, "it does not vary"
    assert not [key for key in found if key[0] == "refuses"]


def test_a_random_answerer_is_no_better_than_a_constant_one() -> None:
    found = scored(("perfect", own))
    mean = {m: np.mean([found[m, c, "distance"].value for c in ANSWERS]) for m in ("constant", "random", "perfect")}
    assert mean["perfect"] < mean["constant"] < mean["random"] * 1.2


def test_a_culture_with_two_known_dimensions_is_not_nearer_for_it() -> None:
    """The originals sum over what is known: Jordan's two dimensions make a constant answerer look near."""
    few = (Truth("german", (None, None, None, None, *TRUTH[0].scores[4:])), *TRUTH[1:])
    rows = answered("m", lambda item: 3)
    found = {s.culture: s for s in hofstede_scores(rows, HofstedeScoring(few, resamples=200)) if
             (s.model, s.metric) == ("m", "distance")}  # fmt: skip
    assert found["german"].n == 2
    gaps = [
        np.mean([t.scores[d] or 0 for t in TRUTH[1:]]) - (TRUTH[0].scores[d] or 0) for d in (4, 5)
    ]  # fmt: skip
    assert found["german"].value == pytest.approx(np.sqrt(np.mean(np.square(gaps))))


def test_95_percent_intervals_of_dimensions_and_distances_cover_the_truth_in_93_to_97() -> None:
    """Of 30 people drawn from a population in which a person is alike in every culture."""
    rng = np.random.default_rng(1)
    means, known = rng.uniform(2, 4, (3, 1, 24)), rng.uniform(20, 90, (3, 6))

    def people(n: int) -> NDArray[np.float64]:
        drawn = means + rng.normal(0, 0.2, (1, n, 24)) + rng.normal(0, 0.35, (3, n, 24))
        return indices(np.clip(drawn, 1, 5))

    truth = figures(people(200_000), known, np.ones((1, 200_000)))
    covered: dict[str, list[bool]] = {"fitted": [], "distance": []}
    for _ in range(330):
        told = people(30)
        found = figures(told, known, np.ones((1, 30)))
        drawn = figures(told, known, rng.multinomial(30, np.full(30, 1 / 30), 300).astype(np.float64))
        for name, own in covered.items():
            value, error, true = (
                getattr(*pair)[0] for pair in ((found, name), (found, f"{name}_error"), (truth, name))
            )
            values, errors = getattr(drawn, name), getattr(drawn, f"{name}_error")
            for place in np.ndindex(value.shape):
                some, theirs = (np.moveaxis(one, 0, -1)[place] for one in (values, errors))
                i = studentised(float(value[place]), float(error[place]), some, theirs, 30, (-np.inf, np.inf))
                own.append(i.low <= true[place] <= i.high)
    assert 0.93 <= np.mean(covered["fitted"]) <= 0.97
    assert 0.93 <= np.mean(covered["distance"]) <= 0.97


def test_errors_are_those_of_the_means_written_out() -> None:
    """With one other culture a dimension is a difference of means over the same people."""
    told = np.random.default_rng(3).normal(0, 20, (2, 40, 6))
    found = figures(told, np.zeros((2, 6)), np.ones((1, 40)))
    gaps = told[0] - told[1]
    assert found.fitted[0, 0] == pytest.approx(gaps.mean(axis=0), abs=1e-9)
    assert found.fitted_error[0, 0] == pytest.approx(gaps.std(axis=0, ddof=1) / 40**0.5, abs=1e-9)


def test_one_respondent_who_gives_no_answer_moves_nothing() -> None:
    whole, partly = scored(("m", own)), scored(("m", lambda item: None if item.id.split("/")[2] == "7" else own(item)))
    for culture in ANSWERS:
        assert partly["m", culture, "lto"].value == pytest.approx(whole["m", culture, "lto"].value)
        assert (partly["m", culture, "lto"].n, whole["m", culture, "lto"].n) == (29, 30)
