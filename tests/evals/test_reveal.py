"""What drawn answers' log-probabilities show of all options, held against values worked out by hand."""

import math
import random

import pytest

from cp_ray.evals.reveal import Tree, reveal, revealed
from cp_ray.llm.call import Token

AGREE = ("Strongly agree", "Agree", "Disagree", "Strongly disagree")
END = "<|end|>"


def token(text: str, **shares: float) -> Token:
    """A drawn token, and what was shown at its place; `_` stands for a blank."""
    shown = {name.replace("_", " "): share for name, share in shares.items()}
    return Token(text, math.log(shown[text]), tuple((name, math.log(share)) for name, share in shown.items()))


def tree_of(*answers: list[Token]) -> Tree:
    tree: Tree = {}
    for answer in answers:
        reveal(tree, answer)
    return tree


def test_one_answer_shows_all_options_that_begin_as_no_other_does() -> None:
    found = revealed(tree_of([token("Yes", Yes=0.6, No=0.3, Well=0.1)]), ("no", "yes"))
    assert found.shares == pytest.approx((0.3, 0.6))
    assert found.unsure == 0


def test_options_that_begin_alike_are_told_apart_once_an_answer_went_that_way() -> None:
    first = [token("Agree", Strong=0.4, Agree=0.3, Dis=0.2, I=0.1), token(END, **{END: 1.0})]
    before = revealed(tree_of(first), AGREE)
    assert before.unsure == pytest.approx(0.4)
    assert before.shares == pytest.approx((0.2, 0.3, 0.2, 0.2))
    second = [
        token("Strong", Strong=0.4, Agree=0.3, Dis=0.2, I=0.1), token("ly", ly=1.0),
        token(" dis", _agree=0.25, _dis=0.75), token("agree", agree=1.0),
    ]  # fmt: skip
    after = revealed(tree_of(first, second), AGREE)
    assert after.shares == pytest.approx((0.1, 0.3, 0.2, 0.3))
    assert after.unsure == 0


def test_an_option_that_another_one_begins_with_ends_where_the_other_goes_on() -> None:
    options = ("Definitely", "Definitely not")
    answer = [token("Definitely", Definitely=0.9, Maybe=0.1), token(END, **{END: 0.7, "_not": 0.2, ".": 0.1})]
    assert revealed(tree_of(answer), options).shares == pytest.approx((0.72, 0.18))
    ended = [token("Definitely", Definitely=0.9, Maybe=0.1), token("", **{"": 0.8, "_not": 0.2})]
    assert revealed(tree_of(ended), options).shares == pytest.approx((0.72, 0.18))


def test_what_only_looks_like_an_option_s_beginning_is_none() -> None:
    options = ("It matters a lot", "Not at all")
    answer = [token("I", I=0.8, Not=0.2), token(" think", _think=0.9, t=0.1)]
    found = revealed(tree_of(answer), options)
    assert found.shares == pytest.approx((0.08, 0.2))


def test_quotation_marks_and_leads_are_passed_over() -> None:
    answer = [
        token("Answer", Answer=1.0),
        token(": ", **{":_": 1.0}),
        token('"', **{'"': 1.0}),
        token("no", no=0.9, yes=0.1),
    ]
    assert revealed(tree_of(answer), ("no", "yes")).shares == pytest.approx((0.9, 0.1))
    assert revealed({}, ("no", "yes")).unsure == 1


def test_the_options_of_a_known_model_are_found_from_few_draws() -> None:
    """A model of characters; 40 answers show nearly all of what 40 draws alone would only sample."""
    ends = {"Strongly agree": 0.35, "Agree": 0.3, "Disagree": 0.15, "Strongly disagree": 0.1, "Who knows": 0.1}

    def after(text: str) -> dict[str, float]:
        going = {one: share for one, share in ends.items() if one.startswith(text)}
        total = sum(going.values())
        found: dict[str, float] = {}
        for one, share in going.items():
            following = one[len(text)] if len(one) > len(text) else END
            found[following] = found.get(following, 0.0) + share / total
        return found

    rng = random.Random(0)
    tree: Tree = {}
    for _ in range(40):
        tokens: list[Token] = []
        while not tokens or tokens[-1].text != END:
            shown = after("".join(t.text for t in tokens))
            drawn = rng.choices(list(shown), list(shown.values()))[0]
            tokens.append(Token(drawn, math.log(shown[drawn]), tuple((t, math.log(p)) for t, p in shown.items())))
        reveal(tree, tokens)
    found = revealed(tree, AGREE)
    assert found.shares == pytest.approx((0.35, 0.3, 0.15, 0.1), abs=1e-9)
    assert found.unsure == 0
