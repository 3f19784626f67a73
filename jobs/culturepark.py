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
from cp_ray.language import codes_of
from cp_ray.pipeline import Step
from cp_ray.quality import QualityConfig
from cp_ray.recipe import Options, check_choice, check_least
from cp_ray.records import Dialogue
from cp_ray.stages.analyse import AnalyseConfig, SampleConfig
from cp_ray.stages.dedup import DedupConfig
from cp_ray.stages.dialogue import DialogueConfig
from cp_ray.stages.direct import DirectConfig
from cp_ray.stages.examples import ExamplesConfig
from cp_ray.stages.extract import ExtractConfig
from cp_ray.stages.leakage import LeakageConfig
from cp_ray.stages.mixed import MixedConfig
from cp_ray.stages.near import NearConfig
from cp_ray.stages.quota import QuotaConfig
from cp_ray.stages.seeds import CandidatesConfig
from cp_ray.stages.verify import VerifyConfig
from cp_ray.stages.voice import GrammarConfig, VoiceConfig


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
    verified: str = "yes",
    rounds: int = 7,
    voice: str = "grammar",
    kept: int = 10,
    near: float = 0.95,
    accepted: int | None = None,
    candidates: int = 1000,
    analysed: int = 0,
    quality: str = "no",
    max_perplexity: float | None = None,
    min_similarity: float | None = None,
    min_words: int | None = None,
    max_words: int | None = None,
    min_english: float | None = None,
    min_margin: float | None = None,
    answers: int = 32,
    draw: str = "apportioned",
    pooling: float = 0.0,
    mixed: int = 0,
    models: steps.ModelOptions = steps.ModelOptions(),
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
        verified: yes, or no: opinions are taken as they come and not set against the survey
        rounds: of each dialogue, two utterances each
        voice: who puts opinions into the first person: grammar, the teacher, or none
        kept: opinions kept of each seed after redundant ones are set aside
        near: cosine from which an opinion is a near-duplicate of another of its culture; 0 keeps near-duplicates
        accepted: exactly so many opinions of each culture; default: as many as come of per_seed
        candidates: dialogues of each culture that may be held to come by them
        analysed: dialogues of each culture that are analysed: topics, extend rate, understanding
        quality: yes: opinions are measured (length, language, similarity, perplexity); implied by a threshold
        max_perplexity: opinions above it are not trained on
        min_similarity: nor those whose cosine to the question is below it
        min_words: nor shorter ones
        max_words: nor longer ones
        min_english: nor those that are in English with less probability, from 0 to 1
        min_margin: nor those whose relation to the survey was the likeliest by less, from -1 to 1, or nobody knows
        answers: survey answers for each training seed
        draw: apportioned (each option gets its share of the answers) or sampled (as respondents are drawn)
        pooling: share of each question's answers that is the culture's mean over all with the same options
        mixed: questions made of two training questions, for each; answered with the mean of both
        models: how the culture models are trained
    """
    check_least("kept", kept, 1)
    if min_margin is not None and options.batch == "anthropic":
        raise ConfigError("min-margin: anthropic's batches tell no log-probabilities to know it by; leave one out")
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
            said = [dialogue, extract]
        else:
            said = [steps.direct(chosen, teacher, ask)]
        if _yes("verified", verified):
            how = VerifyConfig(model, rewrite_tokens=96, seed=seed, structured=options.json)
            said.append(steps.verify(said[-1], teacher, how))
        if (told := _told(voice, options)) is not None:  # before the quota, which counts what is left
            said.append(steps.voice(said[-1], teacher, told))
        every = [*(_of(wave, _kind(said[-1])) for wave in waves), said[-1]]
        before = _of(waves[-1], "dedup") if waves else None
        dedup = steps.dedup(every, DedupConfig(per_seed=kept, seed=seed), before)
        last = [steps.near(dedup, NearConfig(near))] if near else []
        return [chosen, *said, dedup, *last]

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
        made.append(steps.quota(made[-1], quota, options.chosen))

    chosen = made[-1]
    if analysed:
        held = [step for step in made if step.rows is Dialogue]
        if not held:
            raise ConfigError(f"analysed: there are no dialogues with --communication no, got {analysed}; leave it out")
        sampled = steps.sample(held, SampleConfig(analysed, seed))
        made += [sampled, steps.analyse(sampled, teacher, AnalyseConfig(model, seed=seed, structured=options.json))]

    thresholds = (max_perplexity, min_similarity, min_words, max_words, min_english, min_margin)
    measured = None
    if _yes("quality", quality) or any(threshold is not None for threshold in thresholds):
        measured = steps.quality(
            chosen,
            QualityConfig("smollm2", "minilm", *thresholds, codes_of(options.known.values())),
            workers=models.workers,
        )
        made.append(measured)
    mixtures = [steps.mixed(seeds, MixedConfig(mixed, seed))] if mixed else []
    leakage = steps.leakage(seeds, [chosen, *mixtures], LeakageConfig())
    examples = steps.examples(
        seeds, ExamplesConfig(cultures, answers=answers, draw=draw, pooling=pooling, seed=seed),
        leakage=leakage, opinions=chosen, quality=measured, mixed=mixtures,
    )  # fmt: skip
    made += [*mixtures, leakage, examples]
    made.append(steps.export(made, options))
    made += steps.culture_models(seeds, examples, options, models)
    return [*made, steps.report(made, options)]


def _told(voice: str, options: Options) -> VoiceConfig | GrammarConfig | None:
    check_choice("voice", voice, "grammar", "teacher", "none")
    if voice == "teacher":
        return VoiceConfig(options.teacher_model, options.chosen, seed=options.seed, structured=options.json)
    return GrammarConfig(options.chosen) if voice == "grammar" else None


def _of(wave: list[Step], kind: str) -> Step:
    return next(step for step in wave if _kind(step) == kind)


def _kind(step: Step) -> str:
    return step.name.split(".")[0]


def _yes(name: str, text: str) -> bool:
    check_choice(name, text, "yes", "no")
    return text == "yes"


if __name__ == "__main__":
    run_recipe(culturepark)
