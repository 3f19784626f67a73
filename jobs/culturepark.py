"""CulturePark (arXiv 2405.15145), whole: dialogues between cultures, their opinions, one model per culture.

cp-ray run jobs/culturepark.py --root runs/park --cultures all --teacher-url https://api.openai.com/v1
    --teacher-model gpt-4o-mini --budget 20usd --until examples
cp-ray run jobs/culturepark.py --root runs/in --setting in --style free --accepted 500 --until quota
ray job submit --working-dir . -- python jobs/culturepark.py --root s3://bucket/park --cultures all
"""

from cp_ray import steps
from cp_ray.cli import run_recipe
from cp_ray.cultures import one_of
from cp_ray.errors import ConfigError
from cp_ray.evals.ask import AskConfig
from cp_ray.evals.survey import ScoreConfig
from cp_ray.pipeline import Step
from cp_ray.recipe import Options
from cp_ray.stages.dedup import DedupConfig
from cp_ray.stages.dialogue import DialogueConfig
from cp_ray.stages.direct import DirectConfig
from cp_ray.stages.examples import ExamplesConfig
from cp_ray.stages.extract import ExtractConfig
from cp_ray.stages.near import NearConfig
from cp_ray.stages.quota import QuotaConfig
from cp_ray.stages.seeds import CandidatesConfig
from cp_ray.stages.verify import VerifyConfig
from cp_ray.training.config import Placement, TrainConfig


def culturepark(
    options: Options,
    *,
    questions: int | None = None,
    per_seed: int = 1,
    communication: str = "yes",
    setting: str = "cross",
    style: str = "guided",
    main_contact: str = "english",
    delegate_gender: str = "man",
    contact_gender: str = "woman",
    calibrated: str = "yes",
    rounds: int = 7,
    kept: int = 10,
    near: float = 0.95,
    accepted: int | None = None,
    candidates: int = 1000,
    answers: int = 32,
    passes: int = 3,
    workers: int = 2,
) -> list[Step]:
    """Dialogues between cultures, their opinions, and a model per culture.

    Args:
        options: what every recipe takes
        questions: training questions, spread over the topics; default: all
        per_seed: dialogues about each seed
        communication: yes, or no: opinions are asked for in one call, without a dialogue
        setting: cross (with the main contact's culture) or in (within the culture)
        style: guided (a moderator's word before every utterance) or free
        main_contact: id of the culture that all others talk with
        delegate_gender: man or woman
        contact_gender: man or woman
        calibrated: yes, or no: the delegate is not told the survey's answer
        rounds: of each dialogue, two utterances each
        kept: opinions kept of each seed after redundant ones are set aside
        near: cosine from which an opinion is a near-duplicate of another of its culture; 0 keeps near-duplicates
        accepted: exactly so many opinions of each culture; default: as many as come of per_seed
        candidates: dialogues of each culture that may be held to come by them
        answers: survey answers drawn for each training seed
        passes: over the training rows
        workers: CPU workers of training and evaluation
    """
    model, seed, cultures, teacher = options.teacher_model, options.seed, options.chosen, steps.teacher(options)
    talk = DialogueConfig(
        model, cultures, one_of(main_contact, options.known, "main-contact"), setting, style,
        delegate_gender, contact_gender, _yes("calibrated", calibrated), rounds, seed=seed,
    )  # fmt: skip
    ask = DirectConfig(model, cultures, seed=seed, structured=options.json)

    def opinions(chosen: Step, waves: list[list[Step]]) -> list[Step]:
        """From candidates to opinions that are not redundant, beside those of the waves before."""
        if _yes("communication", communication):
            dialogue = steps.dialogue(chosen, teacher, talk)
            extract = steps.extract(
                dialogue, teacher, ExtractConfig(model, cultures, max_tokens=256, seed=seed, structured=options.json)
            )
            voiced = [dialogue, extract]
        else:
            voiced = [steps.direct(chosen, teacher, ask)]
        verify = steps.verify(
            voiced[-1], teacher, VerifyConfig(model, rewrite_tokens=96, seed=seed, structured=options.json)
        )
        verified = [*(_of(wave, "verify") for wave in waves), verify]
        before = _of(waves[-1], "dedup") if waves else None
        dedup = steps.dedup(verified, DedupConfig(per_seed=kept, seed=seed), before)
        last = [steps.near(dedup, NearConfig(near))] if near else []
        return [chosen, *voiced, verify, dedup, *last]

    seeds = steps.seeds(options, questions=questions)
    made = [seeds]
    if accepted is None:
        made += opinions(steps.candidates(seeds, CandidatesConfig(per_seed=per_seed)), [])
    else:
        quota = QuotaConfig(accepted, candidates)
        waves: list[list[Step]] = []
        for _ in range(quota.waves):
            waves.append(opinions(steps.wave(seeds, waves, quota), waves))
        made += [step for wave in waves for step in wave]
        made.append(steps.quota(made[-1], quota))

    examples = steps.examples(seeds, made[-1], ExamplesConfig(cultures, answers=answers, seed=seed))
    trained = [
        steps.train(
            examples,
            TrainConfig(options.base_model, culture, seeds.config.source, passes=passes, seed=seed),
            Placement(workers),
        )
        for culture in cultures
    ]
    predict = steps.predict(seeds, trained, options.base_model, workers=workers)
    evaluate = steps.evaluate(seeds, predict, ScoreConfig(seed=seed))
    made += [examples, *trained, predict, evaluate, steps.answers(seeds, trained, AskConfig(options.base_model))]
    return [*made, steps.report(made, options)]


def _of(wave: list[Step], kind: str) -> Step:
    return next(step for step in wave if step.name.split(".")[0] == kind)


def _yes(name: str, text: str) -> bool:
    if text not in ("yes", "no"):
        raise ConfigError(f"{name}: must be yes or no, got {text!r}")
    return text == "yes"


if __name__ == "__main__":
    run_recipe(culturepark)
