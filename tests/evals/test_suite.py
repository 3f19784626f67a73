"""The whole suite on real adapters, an endpoint that answers as told, and a folder of test sets."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cp_ray import serve, steps
from cp_ray.arrow import to_table
from cp_ray.errors import ConfigError
from cp_ray.estimate import estimate
from cp_ray.evals.answer import DRAWN
from cp_ray.evals.choose import WHOLE, predicted
from cp_ray.evals.trained import trained_models
from cp_ray.folder import Folder
from cp_ray.llm.call import Completion, Sampling, Usage, request_key
from cp_ray.pipeline import Run, Step, execute
from cp_ray.recipe import Options, load_recipe, parse_recipe
from cp_ray.records import Example, Item, Message, Prediction, QuestionScore, Score, Seed
from cp_ray.steps.evaluate import evaluate
from cp_ray.teacher import Teacher, Terms
from cp_ray.training.config import AdapterConfig, TrainConfig
from tests.tiny import make_adapter, make_base

HOFSTEDE = """ctr;country;pdi;idv;mas;uai;ltowvs;ivr
ARA;Arab countries;80;38;53;68;23;34
GER;Germany;35;67;66;65;83;40
JOR;Jordan;#NULL!;#NULL!;#NULL!;#NULL!;16;43
"""


@dataclass(frozen=True)
class Some:
    of: str


def do(root: Path, made: Sequence[Step]) -> Run:
    run = Run(str(root))
    execute(run, made, on_start=lambda step: None, on_done=lambda *_, **__: None)
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as a training leaves it, with adapters of random weights."""
    root = tmp_path_factory.mktemp("run")
    return _trained(root, make_base(root.parent / f"{root.name}-base", context=4096), whole=False)


def _trained(root: Path, base: Path, *, whole: bool) -> Path:
    options = Options(root=str(root), base_model=str(base))
    asked = steps.seeds(options, questions=4, heldout=4)
    examples = Step("examples", Some("seeds"), lambda folder, inputs: to_table([], Example), (asked,), Example)
    every = tuple(AdapterConfig(culture.id, (culture,)) for culture in options.chosen)

    def training(adapters: tuple[AdapterConfig, ...]) -> Step:
        def train(folder: Folder, inputs: Any) -> None:
            for adapter in adapters:
                kind, seed = "models" if whole else "adapters", every.index(adapter) + 1
                place = Path(folder.path, kind, adapter.name)
                place.parent.mkdir(exist_ok=True)
                if whole:
                    make_base(place, context=4096, seed=seed)
                else:
                    make_adapter(base, place, seed)

        config = TrainConfig(str(base), adapters, asked.config.source, method="full" if whole else "lora")
        return Step("train" if len(adapters) > 1 else f"train.{adapters[0].name}", config, train, (examples,))

    do(root, [asked, examples, *(map(training, [(one,) for one in every]) if whole else [training(every)])])
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three little test sets, one of a single class, and Hofstede's scores."""
    root = tmp_path_factory.mktemp("sets")
    sets = {
        "german/germeval2018_offensive": [("gut", "NOT"), ("schlimm", "OFF")] * 6,
        "arabic/mp_hate": [(f"fine {k}", "NOT_HS") for k in range(8)],
        "turkish/offenseval2020": [("iyi", "NOT"), ("schlimm", "OFF"), ("", "OFF")] * 4,
    }
    for place, rows in sets.items():
        field = "comment" if "mp_hate" in place else "tweet"
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({field: text, "label": label}) for text, label in rows]
        (root / f"{place}.jsonl").write_text("\n".join(lines))
    (root / "published.csv").write_text(HOFSTEDE)
    return root


def told(messages: Sequence[Message], sampling: Sampling) -> str | Completion:
    """Right about every text, always the first option of a survey question, and silent about work."""
    user = messages[-1].content
    if " Answer with " in user:
        return "Yes." if "schlimm" in user else "No."
    if "superior" in user:
        return Completion("", "content_filter", Usage(1, 0))
    shown = user.rpartition(": ")[2]
    return shown.split("; ")[0]


def planned(root: Path, *more: str) -> list[Step]:
    return parse_recipe(evaluate, ["--root", str(root), *more], "test")[1]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_suite_from_a_run_s_models_to_a_page(
    ray_cluster: None, scripted_server: Any, trained: Path, data: Path, tmp_path: Path
) -> None:
    server = scripted_server(told, models=("told",))
    arguments = [
        "--run", str(trained), "--models", f"all,told@{server.url}", "--moderation", str(data),
        "--hofstede", str(data / "published.csv"), "--wordings", "2", "--samples", "2", "--in-flight", "8",
    ]  # fmt: skip
    made = planned(tmp_path / "eval", *arguments)
    assert [step.name for step in made] == [
        "survey_seeds", "survey_items", "survey_choices", "survey_choices.told", "survey_scores",
        "moderation_items", "moderation_choices", "moderation_choices.told", "moderation_scores",
        "hofstede_items", "hofstede_choices", "hofstede_choices.told", "hofstede_scores",
        "forgetting_scores", "evaluation",
    ]  # fmt: skip
    run = do(tmp_path / "eval", made)
    folders = {step.name: run.folder(step) for step in made}
    scores = {task: folders[f"{task}_scores"].read(Score) for task in ("survey", "moderation", "hofstede")}
    _check_survey(scores["survey"], (folders["survey_scores"] / "questions").read(QuestionScore))
    _check_moderation(scores["moderation"])
    told_of = {(s.model, s.culture) for s in scores["hofstede"] if s.metric == "distance"}
    models = ("base", "told", "constant", "random", "own")
    assert {(m, c) for m in models for c in ("arabic", "german")} <= told_of
    # What the endpoint withholds is missing: no dimension with an item on superiors is told of it.
    assert not [s for s in scores["hofstede"] if s.model == "told" and s.metric in ("pdi", "lto") and s.n == 0]
    assert ("told", "pdi") not in {(s.model, s.metric) for s in scores["hofstede"]}
    assert ("told", "ivr") in {(s.model, s.metric) for s in scores["hofstede"]}
    page, text = ((tmp_path / "eval" / f"evaluation.{kind}").read_text() for kind in ("html", "md"))
    for part in ("Alignment with the survey", "Content moderation", "Hofstede", "Forgetting", "single class"):
        assert part in page
        assert part in text
    assert text.count(f"{WHOLE}; told: {DRAWN}") == 3, "survey, moderation and Hofstede say how each model was asked"
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "").replace(server.url, "")
    calls = server.stats()["calls"]
    again = do(tmp_path / "eval", planned(tmp_path / "eval", *arguments))
    assert again.manifest(made[-1]) is not None
    assert server.stats()["calls"] == calls, "nothing is paid for twice"


def _check_survey(scores: list[Score], questions: list[QuestionScore]) -> None:
    found = {(s.model, s.culture, s.metric): s for s in scores if s.task == "survey_heldout"}
    names = {"uniform", "first", "last", "modal", "others", "scale", "human", "base", "arabic", "german", "told"}
    assert {m for m, _, _ in found} == names
    assert {s.n for s in found.values()} == {4}
    # It always takes the first option that is listed: half the time the one end of the scale, half the other.
    ends = [q for q in questions if q.model == "told"]
    assert {q.order_gap for q in ends} == {1.0}
    assert found["told", "german", "order_stability"].value == 0
    assert found["told", "german", "wording_stability"].value == 1
    assert {q.split for q in ends} == {"heldout", "train"}


def _check_moderation(scores: list[Score]) -> None:
    f1 = {(s.model, s.task): s.value for s in scores if s.metric == "macro_f1"}
    german, arabic = "german/offensive_detect_eval", "arabic/hate_detect_mp"
    assert f1["told", german] == 1
    assert f1["majority", german] == pytest.approx((2 * 6 / 18 + 0) / 2)
    assert ("german", german) in f1
    assert ("german", arabic) not in f1, "an adapter judges its own culture's texts"
    averages = {(s.model, s.culture) for s in scores if s.task == "moderation"}
    assert ("told", "german") in averages
    assert not [culture for _, culture in averages if culture == "arabic"], "a single class"
    assert {s.n for s in scores if s.task == "turkish/offensive_detect"} == {8}


def talked(messages: Sequence[Message], sampling: Sampling) -> str:
    """Speaks well of all, finds for what stands first, and never learns."""
    user = messages[-1].content
    if "Answer A:" in user:
        return "A"
    if "Reply with nothing but one of" in user:
        return user.rpartition(": ")[2].split("; ")[0]
    return "They are kind, and I am glad of it."


@pytest.mark.long
@pytest.mark.timeout(600)
def test_open_answers_and_lessons_of_endpoints(
    ray_cluster: None, scripted_server: Any, trained: Path, tmp_path: Path
) -> None:
    server = scripted_server(talked, models=("one", "two", "third"))
    made = planned(
        tmp_path, "--run", str(trained), "--models", f"all,one@{server.url},two@{server.url}", "--tasks",
        "open,learning", "--judges", f"third@{server.url},one@{server.url}", "--learner", f"third@{server.url}",
        "--learners", "4",
    )  # fmt: skip
    run = do(tmp_path, made)
    folders = {step.name: run.folder(step) for step in made}
    found = {(s.model, s.culture, s.metric): s for s in folders["open_scores"].read(Score)}
    for culture in ("arabic", "german"):
        assert found["one", culture, "sentiment"].value == 1.0
        assert found["one", culture, "refusals"].value == 0.0
        rate = found["one", culture, "win_rate against two by third"]
        assert (rate.value, rate.low, rate.high, rate.n) == (0.0, 0.0, 0.0, 4)
    assert found["third and one", "", "kappa"].value == 1.0
    gains = {(s.model, s.culture, s.metric): s.value for s in folders["learning_scores"].read(Score)}
    kinds = ("gain_asked", "gain_other")
    assert gains == {(m, c, g): 0.0 for m in ("one", "two") for c in ("arabic", "german") for g in kinds}
    text = (tmp_path / "evaluation.md").read_text()
    assert "one is not told apart from two by third (+0.00, p = 1.000)" in text
    assert "Learning from a talk" in text


@pytest.mark.long
@pytest.mark.timeout(600)
def test_whole_models_go_through_the_suite_as_adapters_do(ray_cluster: None, tmp_path: Path) -> None:
    root = _trained(tmp_path / "run", make_base(tmp_path / "base", context=4096), whole=True)
    served = {model.id: model.adapter or "" for model in serve.trained(Run(str(root)), "run").models}
    assert list(served) == ["arabic", "german", "base"]
    assert served["german"].endswith("/models/german")
    made = planned(tmp_path / "eval", "--run", str(root), "--wordings", "1", "--workers", "1")
    run = do(tmp_path / "eval", made)
    rows = {name: run.folder(step).read(Score) for step in made if (name := step.name).endswith("_scores")}
    assert set(rows) == {"survey_scores", "forgetting_scores"}
    assert all({"base", "arabic", "german"} <= {score.model for score in own} for own in rows.values())
    figures = {name: {(s.model, s.culture, s.metric): s.value for s in own} for name, own in rows.items()}
    emds = [figures["survey_scores"][model, "german", "emd"] for model in ("base", "arabic", "german")]
    assert len(set(emds)) == 3, "each answers with weights of its own"
    assert figures["forgetting_scores"]["base", "", "agreement"] == 1
    assert 0 < figures["forgetting_scores"]["german", "", "agreement"] < 1
    assert "all its weights" in (tmp_path / "eval" / "evaluation.md").read_text()


def test_a_run_of_adapters_and_whole_models_is_refused_in_one_line(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _trained(tmp_path / "run", Path(trained_models(str(trained)).base_model), whole=True)
    both = [*Run(str(trained)).done(), *(f for f in Run(str(whole)).done() if "train.german" in f.path)]
    monkeypatch.setattr(Run, "done", lambda self: both)
    (whole / "last.json").unlink()
    with pytest.raises(ConfigError, match=r"adapters and whole models \(arabic of adapters, german of models\)"):
        trained_models(str(whole))


@pytest.mark.long
@pytest.mark.timeout(300)
def test_what_a_cut_off_attempt_has_answered_is_not_asked_again(
    ray_cluster: None, trained: Path, data: Path, tmp_path: Path
) -> None:
    made = planned(tmp_path, "--run", str(trained), "--models", "base", "--tasks", "moderation", "--base-model",
                   trained_models(str(trained)).base_model, "--moderation", str(data))  # fmt: skip
    asked, chosen = made[0], made[1]
    run = do(tmp_path, [asked])
    items = [item for item in run.folder(asked).read(Item) if item.reject is None]
    parts = Path(run.folder(chosen).path, "parts")
    parts.mkdir(parents=True)
    before = [predicted(item, "base", (1.0, 0.0)) for item in items[:20]]
    pq.write_table(to_table(before, Prediction), parts / "one.parquet")
    (parts / "two.part").write_bytes(b"cut off while it was written")
    do(tmp_path, [asked, chosen])
    rows = {p.item: p for p in run.folder(chosen).read(Prediction)}
    assert set(rows) == {item.id for item in items}
    assert [rows[p.item] for p in before] == before
    assert all(0 < p.probabilities[0] < 1 for id, p in rows.items() if id not in {p.item for p in before})


def test_a_run_s_models_are_found_with_the_questions_they_were_trained_on(trained: Path, tmp_path: Path) -> None:
    found = trained_models(str(trained))
    assert list(found.folders) == list(found.cultures) == ["arabic", "german"]
    assert found.seeds.manifest() is not None
    with pytest.raises(ConfigError, match="has no trained adapter"):
        trained_models(str(tmp_path))


def test_adapters_are_not_put_on_another_base_than_they_were_trained_on(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    root = _trained(tmp_path / "run", base, whole=False)
    assert trained_models(str(root)).base_model == str(base)
    make_base(base, seed=1)
    for read in (lambda: trained_models(str(root)), lambda: serve.trained(Run(str(root)), "run")):
        with pytest.raises(ConfigError, match=r"run: its models began as what .*/base held at their training"):
            read()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "klingon"], "the run has no model 'klingon'; it has arabic, german"),
        (["--models", "gpt@"], "models: an endpoint must be model@url, or name=model@url, got 'gpt@'"),
        (["--models", "gpt@nowhere"], "models: must begin with http:// or https:// and name a host"),
        (["--models", "gpt@http://"], "models: must begin with http:// or https:// and name a host"),
        (["--models", ""], "models: needs at least one, got ''"),
        (["--models", "m@http://x/v1", "--tasks", "open", "--judges", "m"], "judges: an endpoint must be model@url"),
        (["--models", "m@http://x/v1", "--tasks", "learning", "--learner", "m@"], "learner: an endpoint must be"),
        (["--learners", "1"], "learners: must be at least 2, got 1"),
        (["--models", "all,mine@http://x/v1", "--budget", "5usd"], "no price is known for 'mine'"),
        (["--models", "all,german@http://x/v1"], "got 'german', which is a model of the run's; give it another, as in "
         "other=german@http://x/v1"),
        (["--models", "m@http://a/v1,m@http://b/v1"], "got 'm', which is another endpoint's"),
        (["--models", "a/m@http://a/v1,a-m@http://b/v1"], "got 'a-m', which is 'a/m' as a folder's name"),
        (["--models", "base=m@http://a/v1"], "got 'base', which is something else in the figures"),
        (["--models", "human@http://a/v1"], "got 'human', which is something else"),
        (["--models", "scale@http://a/v1"], "got 'scale', which is something else"),
        (["--models", "majority@http://a/v1"], "got 'majority', which is something else"),
        (["--models", "=m@http://a/v1"], "must be model@url, or name=model@url"),
        (["--models", "m@http://a/v1,n@http://b/v1", "--tasks", "open", "--judges", "j@http://a/v1,j@http://b/v1"],
         "judges: an endpoint must have a name of its own, got 'j'"),
        (["--models", "m@http://a/v1", "--fallbacks", "n@http://b/v1"], "fallbacks: another model's answers"),
        (["--budget", "5usd"], "budget: no endpoint is asked"),
        (["--tasks", "surevy"], "did you mean 'survey'"),
        (["--tasks", "moderation"], "moderation needs --moderation"),
        (["--tasks", "hofstede", "--hofstede", "/nowhere.csv"], "cannot be read"),
        (["--also", "german"], "'german' is a culture of the run's training"),
        (["--wordings", "9"], "wordings: must be between 1 and 3"),
        (["--tasks", "open", "--judges", "j@http://x/v1"], "are of endpoints"),
        (["--workers", "0"], "workers: must be at least 1"),
    ],
)  # fmt: skip
def test_wrong_options_are_told_in_one_line(trained: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(trained, *arguments)


def test_a_model_at_another_address_is_another_model(
    ray_cluster: None, scripted_server: Any, trained: Path, tmp_path: Path
) -> None:
    def saying(place: int) -> Any:
        return scripted_server(
            lambda messages, sampling: sorted(messages[-1].content.rpartition(": ")[2].split("; "))[place],
            models=("told",),
        )

    def answers(models: str) -> list[list[Prediction]]:
        made = planned(tmp_path, "--run", str(trained), "--models", models, "--tasks", "survey", "--samples", "1")
        some = [step for step in made if step.name in ("survey_seeds", "survey_items") or ".o" in step.name]
        run = do(tmp_path, some)
        return [run.folder(step).read(Prediction) for step in some[2:]]

    first, last, third = saying(0), saying(-1), saying(-1)
    one, other = answers(f"all,one=told@{first.url},other=told@{last.url}")
    assert ({p.model for p in one}, {p.model for p in other}) == ({"one"}, {"other"})
    assert not {(p.item, p.output) for p in one} & {(p.item, p.output) for p in other}
    (moved,) = answers(f"all,one=told@{third.url}")
    assert third.stats()["calls"] >= len(moved), "what the first server said is not replayed"
    assert [p.output for p in moved] == [p.output for p in other]
    calls = third.stats()["calls"]
    assert answers(f"all,one=told@{third.url}/") == [moved]
    assert answers(f"all,again=told@{third.url},one=told@{third.url}")[-1] == moved
    assert third.stats()["calls"] == calls, "and what it said itself is"


def test_a_teacher_s_rows_go_on_with_another_server_of_its_model(ray_cluster: None, tmp_path: Path) -> None:
    said = Message("user", "Is work good?")
    doors = [
        Teacher(url, "m", Terms(), str(tmp_path), by_server=by_server).door("dialogue")
        for by_server in (False, True)
        for url in ("http://a/v1", "http://b/v1")
    ]
    keys = [request_key("m", (said,), Sampling(), door.server) for door in doors]
    assert keys[0] == keys[1] == request_key("m", (said,), Sampling())
    assert len(set(keys)) == 3


def test_a_change_of_the_data_does_its_steps_again_and_no_other(trained: Path, data: Path, tmp_path: Path) -> None:
    from cp_ray.pipeline import fingerprint

    copy = tmp_path / "german"
    copy.mkdir()
    text = (data / "german" / "germeval2018_offensive.jsonl").read_text()
    prints = []
    for content in (text, text + "\n{}"):
        (copy / "germeval2018_offensive.jsonl").write_text(content)
        made = planned(trained, "--moderation", str(tmp_path))
        prints.append({step.name: fingerprint(step) for step in made})
    changed = {name for name in prints[0] if prints[0][name] != prints[1][name]}
    assert changed == {"moderation_items", "moderation_choices", "moderation_scores", "evaluation"}


def test_calls_to_endpoints_are_counted_beforehand_and_no_model_is_run(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    made = planned(
        tmp_path, "--run", str(trained), "--models", "all,gpt-4o-mini@http://127.0.0.1:9/v1", "--budget", "5usd",
        "--moderation", str(data), "--samples", "3", "--wordings", "1",
    )  # fmt: skip
    found = {e.step: e.calls for e in estimate(Run(str(tmp_path)), made)}
    # Of the 32 lines 28 can be used; 8 questions to two cultures in two orders, three answers each.
    assert found == {"moderation_choices.gpt-4o-mini": 28, "survey_choices.gpt-4o-mini": 8 * 2 * 2 * 3}


def test_a_people_that_no_adapter_was_trained_on_is_asked_the_same_questions(trained: Path, tmp_path: Path) -> None:
    asked = planned(tmp_path, "--run", str(trained), "--also", "greek,korean", "--tasks", "survey")[0]
    rows = do(tmp_path, [asked]).folder(asked).read(Seed)
    splits = {(s.culture, s.question_id): s.split for s in rows}
    assert {culture for culture, _ in splits} == {"arabic", "german", "greek", "korean"}
    for (culture, question), split in splits.items():
        assert split == splits["german", question], culture
    assert sum(s.culture == "greek" and s.split == "heldout" for s in rows) == 4
    shares = {s.distribution for s in rows if s.question_id == rows[0].question_id}
    assert len(shares) == 4


def test_the_recipe_in_jobs_is_the_command_s() -> None:
    assert load_recipe(str(Path(__file__).parent.parent.parent / "jobs" / "evaluate.py")) is evaluate


def test_tables_of_rows_are_in_the_declared_schema() -> None:
    made = to_table([Prediction("i", "m", "c", "t", "x", "o", (0.5, 0.5), ((1.0, 0.0), (0.0, 1.0)))], Prediction)
    assert made.schema.field("asked").type == pa.list_(pa.list_(pa.float64()))
