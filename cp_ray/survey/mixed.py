"""Questions made of two: the beginning of one and the end of another that has the same options.

From a few dozen questions a model learns each by heart. Between two of them it is told that the answers lie between
theirs (mixup, arXiv:1710.09412, in words), so that it has much to say of questions that it has never seen.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import takewhile

from cp_ray.records import Seed

__all__ = ["mixed", "pairs"]

_LEAST, _MOST = 0.3, 0.7
"""Of the words that two questions do not begin with alike: the share that the first one gives."""


def pairs(seeds: Sequence[Seed], each: int, seed: int) -> Iterator[tuple[Seed, Seed, float]]:
    """Pairs of a culture's seeds with the same options, and where to cut them.

    Two cultures that were asked the same questions get the same pairs.

    Args:
        seeds: of all cultures.
        each: partners of a seed; as many as there are where there are fewer.
        seed: of the draws.
    """
    alike: dict[tuple[str, tuple[str, ...]], list[Seed]] = {}
    for one in sorted(seeds, key=lambda s: s.id):
        alike.setdefault((one.culture, one.options), []).append(one)
    for one in seeds:
        draws = random.Random(f"{seed}/{one.question_id}")
        others = [other for other in alike[one.culture, one.options] if other is not one]
        for other in draws.sample(others, min(each, len(others))):
            yield one, other, draws.uniform(_LEAST, _MOST)


def mixed(one: str, other: str, cut: float) -> str:
    """What both begin with, then the first of one's words and the last of the other's; without spaces, characters."""
    between = " " if " " in one and " " in other else ""
    first, second = (text.split() if between else list(text) for text in (one, other))
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
    head, tail = (same + round(cut * (len(words) - same)) for words in (first, second))
    return between.join([*first[:head], *second[tail:]])
