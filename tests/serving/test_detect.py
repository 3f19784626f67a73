import pytest

from cp_ray.serving.detect import LanguageOf

SERVED = LanguageOf({"ar", "bn", "zh", "en", "de", "el", "ko", "pt", "es", "tr"})


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Was ist dir im Leben am wichtigsten?", "de"),
        ("¿Qué es lo más importante en la vida?", "es"),
        ("O que é mais importante para você na vida?", "pt"),
        ("What matters most to you in life?", "en"),
        ("Hayatta senin için en önemli şey nedir?", "tr"),
        ("ما هو أهم شيء في حياتك؟", "ar"),
        ("জীবনে তোমার কাছে সবচেয়ে গুরুত্বপূর্ণ কী?", "bn"),
        ("你生活中最重要的是什么？", "zh"),
        ("인생에서 가장 중요한 것은 무엇입니까?", "ko"),
        ("Τι είναι το πιο σημαντικό στη ζωή;", "el"),
        ("@someone https://example.org/what/is/this Das weiß ich nicht #genau", "de"),
    ],
)
def test_served_languages_are_told(text: str, code: str) -> None:
    assert SERVED(text) == code


@pytest.mark.parametrize(
    "text",
    [
        "Qu'est-ce qui compte le plus pour toi dans la vie ?",
        "Wat is voor jou het belangrijkste in het leven?",
        "Что для тебя самое важное в жизни?",
        "Mi a legfontosabb számodra az életben?",
        "あなたの人生で一番大切なものは何ですか？",
        "",
        "123 !?",
        "@user https://example.org",
        "👍👍",
    ],
)
def test_other_languages_and_what_is_none_are_not_guessed(text: str) -> None:
    assert SERVED(text) is None


def test_a_language_that_is_not_served_is_not_told() -> None:
    assert LanguageOf({"de", "ko"})("What matters most to you in life?") is None
