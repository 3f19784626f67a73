from cp_ray.progress import ALLOWED, Pace, Tally, View, line


def view(done: int, calls: float = 0.0, total: int | None = 100, **latest: float) -> View:
    return done, total, {"calls": calls} if calls else {}, latest


def test_a_line_tells_rows_calls_money_and_what_is_left() -> None:
    tally = Tally(200)
    tally.add(50, {"calls": 1400, "tokens": 310_000, "usd": 0.41, "failed tries": 3}, {ALLOWED: 100.0})
    assert line("dialogue", "rows", tally.view(), 250.0, 99.2) == (
        "dialogue: 50/200 rows, 1,400 calls, 310,000 tokens, 0.4100 USD, 3 failed tries, "
        "99.2 of 100.0 calls/s, 4:10 left"
    )


def test_what_cannot_be_told_is_left_out() -> None:
    assert line("train", "steps", (3, None, {}, {"loss": 1.5}), None, None) == "train: 3/? steps, loss 1.500"
    assert line("dialogue", "rows", view(1, 5), None, 2.0) == "dialogue: 1/100 rows, 5 calls, 2.0 calls/s"


def test_the_pace_is_that_of_the_last_minute() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    pace.see(view(0))
    now = 1.0
    pace.see(view(60))  # replayed at once
    for _ in range(100):
        now += 1.0
        pace.see(view(60 + int(now / 10), calls=now))
    left, rate = pace.left_s(), pace.calls_per_s()
    assert left is not None
    assert rate is not None
    assert 270 < left < 330
    assert 0.9 < rate < 1.1


def test_nothing_is_guessed_before_anything_is_done() -> None:
    pace = Pace(lambda: 1.0)
    pace.see(view(0))
    assert pace.left_s() is None
    assert pace.calls_per_s() is None
