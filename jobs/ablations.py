"""What each part of the method brings: a recipe's variants, held against each other on the same held-out questions.

python jobs/ablations.py --study communication --root runs/ablations --cultures all --teacher-url … --teacher-model …
python jobs/ablations.py --study tau --root runs/ablations …         # ablation-tau.html, ablation-tau.md
python jobs/ablations.py --list
"""

import sys
from pathlib import Path

from cp_ray.ablation import Study, Variant, ablate, plan, study_of
from cp_ray.cli import guarded, step_by_step
from cp_ray.cluster import connected
from cp_ray.recipe import Parser, load_recipe

PARK, LLM = "culturepark.py", "culturellm.py"

MANY = ("english", "german", "chinese", "spanish", "portuguese")
FEW = ("turkish", "korean", "arabic", "greek", "bengali")
"""By how much of the web is in a culture's language: more than two per cent of Common Crawl, or less."""


def _over(option: str, *values: str) -> tuple[Variant, ...]:
    return tuple(Variant(f"{option}={value}", (f"--{option}", value)) for value in values)


STUDIES = {
    "communication": Study(PARK, "Does the talk help, or would the teacher's opinions alone do?",
                           _over("communication", "yes", "no")),
    "setting": Study(PARK, "Is it better to talk between cultures or within one?", _over("setting", "cross", "in")),
    "style": Study(PARK, "Does a moderator's guidance help?", _over("style", "guided", "free")),
    "calibrated": Study(PARK, "Must the delegate be told the survey's answer?", _over("calibrated", "yes", "no")),
    "gender": Study(PARK, "Does it matter who talks?", (
        Variant("man with woman"),
        Variant("woman with woman", ("--delegate-gender", "woman")),
        Variant("woman with man", ("--delegate-gender", "woman", "--contact-gender", "man")),
        Variant("man with man", ("--contact-gender", "man")),
    )),
    "verification": Study(PARK, "Does it help to set opinions against the survey?", _over("verified", "yes", "no")),
    "dedup": Study(PARK, "Does it help to set redundant opinions aside?", (
        Variant("both"),
        Variant("near-duplicates kept", ("--near", "0")),
        Variant("all of a question kept", ("--kept", "1000", "--near", "0")),
    )),
    "dialogues": Study(PARK, "Do more dialogues help?", _over("per-seed", "1", "2", "5", "10")),
    "samples": Study(LLM, "Do more wordings help?", _over("samples", "10", "0", "1", "2", "20")),
    "method": Study(LLM, "Which way of making wordings helps?",
                    _over("method", "both", "templates", "synonyms", "translations", "none")),
    "tau": Study(LLM, "How near must a wording be?", _over("tau", "0.8", "0.5", "0.65", "0.95")),
    "language": Study(LLM, "English, or each culture's own language?", _over("language", "english", "own")),
    "training": Study(LLM, "All adapters in one run, or one after the other?",
                      _over("training", "joint", "separate")),
    "unified": Study(LLM, "One model of all cultures, or one for each?", (
        Variant("specific", ("--unified", "yes")), Variant("unified", ("--unified", "yes"), "unified"),
    )),
    "resource": Study(LLM, "Does training help cultures whose language has few texts as much as the others?", (
        Variant("languages with many texts", cultures=MANY), Variant("languages with few texts", cultures=FEW),
    )),
    "unasked": Study(LLM, "Can a culture that no survey asked be learnt from its neighbours' answers?", (
        Variant("its own answers"),
        Variant("its neighbours' answers", ("--answers-from", "neighbours")),
        Variant("no training", model="base"),
    )),
}  # fmt: skip


def main(arguments: list[str]) -> None:
    """Do a study."""
    parser = Parser(prog="ablations.py", description="What each part of the method brings.", allow_abbrev=False)
    parser.add_argument("--study", metavar="NAME", help="one of: " + ", ".join(STUDIES))
    parser.add_argument("--list", action="store_true", help="the studies, with what they ask")
    given, rest = parser.parse_known_args(arguments)
    if given.list or given.study is None:
        for name, study in STUDIES.items():
            print(f"{name:<15}{study.question}  ({', '.join(v.name for v in study.variants)})")
        return
    study = study_of(given.study, STUDIES)
    run, planned = plan(load_recipe(str(Path(__file__).with_name(study.recipe))), study, rest)
    with connected():
        section = ablate(given.study, study, run, planned, step_by_step)
    print("\n" + "\n".join(section.said))
    print(f"{run.root.uri}/ablation-{given.study}.html")


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
