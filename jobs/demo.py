"""The main job, small: survey answers in, culture models and a report out.

cp-ray run jobs/demo.py
cp-ray run jobs/demo.py --cultures korean,greek --root runs/east
cp-ray run jobs/demo.py --teacher-url https://api.openai.com/v1 --teacher-model gpt-4o-mini --rpm 500
ray job submit --working-dir . -- python jobs/demo.py --root /shared/runs/demo
"""

from cp_ray import steps
from cp_ray.cli import run_recipe
from cp_ray.pipeline import Step
from cp_ray.recipe import Options, check_least
from cp_ray.stages.dedup import DedupConfig
from cp_ray.stages.dialogue import DialogueConfig
from cp_ray.stages.examples import ExamplesConfig
from cp_ray.stages.extract import ExtractConfig
from cp_ray.stages.leakage import LeakageConfig
from cp_ray.stages.mixed import MixedConfig
from cp_ray.stages.seeds import CandidatesConfig
from cp_ray.stages.verify import VerifyConfig


def demo(
    options: Options,
    *,
    questions: int | None = None,
    heldout: int | None = None,
    dialogues: int = 3,
    rounds: int = 2,
    answers: int = 32,
    draw: str = "apportioned",
    pooling: float = 0.0,
    mixed: int = 0,
    models: steps.ModelOptions = steps.ModelOptions(passes=5, layers=10),
) -> list[Step]:
    """Survey answers in, culture models and a report out.

    Args:
        options: what every recipe takes
        questions: training questions, spread over the topics; default: all
        heldout: questions kept for the test, over all topics; default: a fifth
        dialogues: training seeds of each culture to hold a dialogue about
        rounds: of each dialogue, two utterances each
        answers: survey answers for each training seed
        draw: apportioned (each option gets its share of the answers) or sampled (as respondents are drawn)
        pooling: share of each question's answers that is the culture's mean over all with the same options
        mixed: questions made of two training questions, for each; answered with the mean of both
        models: how the culture models are trained
    """
    check_least("dialogues", dialogues, 1)
    model, seed, cultures = options.teacher_model, options.seed, options.chosen
    teacher = steps.teacher(options)

    seeds = steps.seeds(options, questions=questions, heldout=heldout)
    candidates = steps.candidates(seeds, CandidatesConfig(dialogues))
    held = DialogueConfig(model, cultures, options.known["english"], rounds=rounds, max_tokens=40, seed=seed)
    dialogue = steps.dialogue(candidates, teacher, held)
    extracted = 192 if options.json else 48  # JSON that is cut off is lost
    extract = steps.extract(
        dialogue, teacher, ExtractConfig(model, cultures, max_tokens=extracted, seed=seed, structured=options.json)
    )
    verify = steps.verify(extract, teacher, VerifyConfig(model, seed=seed, structured=options.json))
    dedup = steps.dedup([verify], DedupConfig(per_seed=4, seed=seed))
    mixtures = [steps.mixed(seeds, MixedConfig(mixed, seed))] if mixed else []
    leakage = steps.leakage(seeds, [dedup, *mixtures], LeakageConfig())
    examples = steps.examples(
        seeds,
        ExamplesConfig(cultures, answers=answers, draw=draw, pooling=pooling, seed=seed),
        leakage=leakage,
        opinions=dedup,
        mixed=mixtures,
    )
    rows = [seeds, candidates, dialogue, extract, verify, dedup, *mixtures, leakage, examples]
    made = [*rows, steps.export(rows, options), *steps.culture_models(seeds, examples, options, models)]
    return [*made, steps.report(made, options)]


if __name__ == "__main__":
    run_recipe(demo)
