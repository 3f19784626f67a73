"""CultureLLM (arXiv 2402.10946): survey questions in many wordings, answered as people did; one model per culture.

cp-ray run jobs/culturellm.py --root runs/llm --cultures all --teacher-url https://api.openai.com/v1
    --teacher-model gpt-4o-mini --budget 5usd
cp-ray run jobs/culturellm.py --root runs/own --language own --samples 2 --until examples
cp-ray sweep jobs/culturellm.py --over samples=0,1,2,10,20 --root runs/llm
ray job submit --working-dir . -- python jobs/culturellm.py --root s3://bucket/llm --cultures all
"""

from cp_ray import steps
from cp_ray.cli import run_recipe
from cp_ray.paraphrase.meaning import MeaningConfig
from cp_ray.pipeline import Step
from cp_ray.recipe import Options, check_choice, check_least
from cp_ray.stages.augment import BackTranslationsConfig, SynonymsConfig, TemplatesConfig
from cp_ray.stages.check import CheckConfig
from cp_ray.stages.entail import EntailConfig
from cp_ray.stages.examples import ExamplesConfig
from cp_ray.stages.leakage import LeakageConfig
from cp_ray.stages.mixed import MixedConfig
from cp_ray.stages.pick import PickConfig
from cp_ray.stages.translate import TranslateConfig


def culturellm(
    options: Options,
    *,
    questions: int | None = None,
    heldout: int | None = None,
    method: str = "both",
    templates: int = 5,
    samples: int = 10,
    tau: float = 0.8,
    entail: str = "auto",
    language: str = "english",
    answers: int = 44,
    answers_from: str = "own",
    draw: str = "apportioned",
    pooling: float = 0.0,
    mixed: int = 0,
    models: steps.ModelOptions = steps.ModelOptions(),
) -> list[Step]:
    """Survey questions in many wordings, answered as people did, and a model per culture.

    Args:
        options: what every recipe takes
        questions: training questions, spread over the topics; default: all
        heldout: questions kept for the test, over all topics; default: a fifth
        method: both (templates, then synonyms in them), templates, synonyms, translations (there and back) or none
        templates: sentences of another structure that are kept of each question
        samples: wordings of each question besides the survey's; 10 for 50 questions are the paper's 500
        tau: least similarity of a wording and its question
        entail: yes, no, auto: the teacher too judges whether a wording asks the same; auto: unless it is embedded
        language: english, or own: each culture is asked in its own language
        answers: survey answers for each training seed, spread over its wordings
        answers_from: own, or neighbours: a culture is trained on its neighbours' answers, as if it had never been asked
        draw: apportioned (each option gets its share of the answers) or sampled (as respondents are drawn)
        pooling: share of each question's answers that is the culture's mean over all with the same options
        mixed: questions made of two training questions, for each; answered with the mean of both
        models: how the culture models are trained
    """
    check_choice("method", method, "both", "templates", "synonyms", "translations", "none")
    check_choice("language", language, "english", "own")
    check_choice("answers-from", answers_from, "own", "neighbours")
    check_choice("entail", entail, "yes", "no", "auto")
    check_least("templates", templates, 1)
    check_least("samples", samples, 0)
    # Each wording is asked, and the survey's own.
    check_least("answers", answers, 2 if method == "none" else samples + 1)
    model, seed, json, teacher = options.teacher_model, options.seed, options.json, steps.teacher(options)
    meaning = CheckConfig(MeaningConfig(tau))

    def judged(drafts: Step) -> list[Step]:
        """The drafts, and those among them that ask the same."""
        checked = steps.check(drafts, meaning)
        if entail == "no" or (entail == "auto" and options.teacher_url is None):
            return [drafts, checked]
        return [drafts, checked, steps.entail(checked, teacher, EntailConfig(model, seed=seed, structured=json))]

    seeds = steps.seeds(options, questions=questions, heldout=heldout)
    own = steps.own_wordings(seeds)
    made, sentences = [seeds, own], own
    near = steps.neighbours(seeds, options) if answers_from == "neighbours" else None
    wanted = PickConfig(samples)
    if method in ("both", "templates") and samples:
        drafts = 2 * max(templates, samples if method == "templates" else 0)
        made += judged(steps.restructure(own, teacher, TemplatesConfig(model, drafts, seed=seed, structured=json)))
        if method == "both":
            sentences = steps.pick(made[-1], PickConfig(templates))
            made.append(sentences)
    if method in ("both", "synonyms") and samples:
        draws = -(-4 * samples // (templates if method == "both" else 1))
        exchange = SynonymsConfig(model, draws, seed=seed, structured=json)
        made += judged(steps.exchange_words(sentences, teacher, exchange))
    if method == "translations" and samples:
        made += judged(steps.back_translated(own, teacher, BackTranslationsConfig(model, seed=seed)))
    last = [made[-1]] if len(made) > 2 else []
    chosen = steps.wordings(own, last, wanted)
    made.append(chosen)

    translations = None
    if language == "own":
        english, translations = steps.translate(
            chosen, options.chosen, teacher, TranslateConfig(model, seed=seed, structured=json)
        )
        made += [english, translations]
    mixtures = [steps.mixed(near or seeds, MixedConfig(mixed, seed))] if mixed else []
    leakage = steps.leakage(seeds, [chosen, *mixtures], LeakageConfig())
    examples = steps.examples(
        seeds, ExamplesConfig(options.chosen, answers=answers, draw=draw, pooling=pooling, seed=seed),
        leakage=leakage, wordings=chosen, translations=translations, answers=near, mixed=mixtures,
    )  # fmt: skip
    made += [*([near] if near else []), *mixtures, leakage, examples]
    made.append(steps.export(made, options))
    made += steps.culture_models(seeds, examples, options, models)
    return [*made, steps.report(made, options)]


if __name__ == "__main__":
    run_recipe(culturellm)
