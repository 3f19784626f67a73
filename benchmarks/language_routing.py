"""Which language a message is in: posts of the served languages, and sentences of others, which must not be guessed.

    python -m benchmarks.language_routing --posts FOLDER --others FOLDER

`--posts` holds JSON Lines in a folder for each culture (`german/*.jsonl`) with the text under tweet, comment or data;
`--others` holds gettext catalogues, `<language>/LC_MESSAGES/*.po`, such as Django's.
"""

import argparse
import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import f1_score

from benchmarks.results import append
from cp_ray.cultures import CULTURES
from cp_ray.serving.detect import LanguageOf

_OF_EACH, _OTHERS, _SHORT = 500, 6_000, 40
_NONE = "none"


def main() -> None:
    """Print the table and append the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=Path, required=True)
    parser.add_argument("--others", type=Path, required=True)
    args = parser.parse_args()
    served = {culture.locales[0].split("-")[0] for culture in CULTURES.values()}
    draws = random.Random(0)
    own = list(posts(args.posts, draws))
    others = [(text, code) for text, code in sentences(args.others) if code not in served]
    draws.shuffle(others)
    identify = LanguageOf(served)
    started = time.perf_counter()
    told = [identify(text) or _NONE for text, _ in own]
    milliseconds = 1000 * (time.perf_counter() - started) / len(own)
    guessed = [identify(text) for text, _ in others[:_OTHERS]]
    short = [k for k, (text, _) in enumerate(own) if len(text) <= _SHORT]
    # Some posts are a link or a name and nothing else: nobody could tell.
    worded = [k for k in short if any(letter.isalpha() for letter in re.sub(r"https?://\S+|@\w+", "", own[k][0]))]
    figures = {
        "posts": len(own),
        "languages": len({code for _, code in own}),
        "macro_f1": round(macro_f1(own, told), 4),
        "short_posts": len(short),
        "macro_f1_short": round(macro_f1([own[k] for k in short], [told[k] for k in short]), 4),
        "short_posts_with_words": len(worded),
        "macro_f1_short_with_words": round(macro_f1([own[k] for k in worded], [told[k] for k in worded]), 4),
        "other_languages": len({code for _, code in others[:_OTHERS]}),
        "abstained_on_others": round(guessed.count(None) / len(guessed), 4),
        "milliseconds": round(milliseconds, 3),
    }
    for name, value in figures.items():
        print(f"{name:24} {value}")
    append("language_routing", figures)


def macro_f1(own: Sequence[tuple[str, str]], told: Sequence[str]) -> float:
    """Over the languages of the posts; abstaining counts as a miss."""
    true = [code for _, code in own]
    return float(f1_score(true, told, labels=np.unique(true), average="macro", zero_division=0))


def posts(folder: Path, draws: random.Random) -> Iterator[tuple[str, str]]:
    """So many of each culture, with their language."""
    for id, culture in CULTURES.items():
        texts = []
        for file in sorted((folder / id).glob("*.jsonl")):
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
            texts += [str(row.get("tweet") or row.get("comment") or row.get("data") or "") for row in rows]
        texts = [text for text in texts if text.strip()]
        draws.shuffle(texts)
        yield from ((text, culture.locales[0].split("-")[0]) for text in texts[:_OF_EACH])


def sentences(folder: Path) -> Iterator[tuple[str, str]]:
    """Translated messages of 30 characters and more, with their language; placeholders and markup taken out."""
    for file in sorted(folder.rglob("LC_MESSAGES/*.po")):
        code = re.split("[_-]", file.parts[-3])[0]
        for message in re.findall(r'^msgstr "(.{30,})"$', file.read_text(encoding="utf-8"), re.MULTILINE):
            yield re.sub(r"%\(\w+\)s|%s|\{\w+\}|<[^>]+>|\\n", " ", message), code


if __name__ == "__main__":
    main()
