"""The pipeline's steps, to be composed by a recipe in jobs/: a function gives one `Step`, or those that go together.

Here, and only here, stages meet the run folder, Ray and the teacher.
"""

from cp_ray.steps.data import candidates, examples, export, leakage, mixed, neighbours, seeds, wave
from cp_ray.steps.hosted import hosted, predict_hosted, submit
from cp_ray.steps.model_options import ModelOptions
from cp_ray.steps.models import answers, culture_models, evaluate, predict, report, train
from cp_ray.steps.opinions import (
    analyse,
    dedup,
    dialogue,
    direct,
    extract,
    near,
    quality,
    quota,
    sample,
    verify,
    voice,
)
from cp_ray.steps.paraphrases import (
    back_translated,
    check,
    entail,
    exchange_words,
    own_wordings,
    pick,
    restructure,
    translate,
    wordings,
)
from cp_ray.steps.rows import teacher

__all__ = [
    "ModelOptions", "analyse", "answers", "back_translated", "candidates", "check", "culture_models",
    "dedup", "dialogue", "direct", "entail", "evaluate", "examples", "exchange_words", "export", "extract", "hosted",
    "leakage", "mixed", "near", "neighbours", "own_wordings", "pick", "predict", "predict_hosted", "quality", "quota",
    "report", "restructure", "sample", "seeds", "submit", "teacher", "train", "translate", "verify", "voice", "wave",
    "wordings",
]  # fmt: skip
