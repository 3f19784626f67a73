"""Closed lists of English words and of tags (BNC C5), for telling what is said of a people in the first person."""

__all__ = ["ALL_OF", "BETWEEN", "FIRST", "LEADS_IN", "ONE", "ONE_EACH", "PEOPLE_AT_LARGE", "PRONOUNS", "SKIPPED"]


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


PRONOUNS = {
    "they": "I",
    "them": "me",
    "their": "my",
    "theirs": "mine",
    "themselves": "myself",
    "themself": "myself",
}
ALL_OF = (
    (), ("the",), ("most",), ("many",), ("all",), ("all", "the"), ("most", "of", "the"), ("the", "majority", "of"),
    ("a", "majority", "of"),
)  # fmt: skip
"""What may stand before the people: who says something of most of them says it of one of them."""
FIRST = {"are": "am", "'re": "'m", "is": "am", "'s": "'m", "were": "was", "has": "have", "does": "do"}
LEADS_IN = _set("PRP PRF CJS AVQ AV0 CJC AT0 DT0")
SKIPPED = frozenset(("AV0", "XX0"))
BETWEEN = _set("AV0 AT0 AJ0 AJC AJS DT0 DPS ORD CRD NN1 VVN VVG XX0 CJC")
PEOPLE_AT_LARGE = _set(
    "people persons individuals everyone everybody parents children women men mothers fathers citizens families "
    "adults students couples workers employees girls boys spouses husbands wives"
)
"""As the subject of a clause, they are whom the clause's "their" means; others, say "immigrants", may not be."""
ONE = _set(
    "person child man woman girl boy parent mother father government state family company employer boss leader "
    "politician neighbour neighbor citizen individual student worker couple community team group everyone everybody "
    "anyone anybody someone somebody nobody those others"
)
"""Whom "they" may mean although they are not in the plural."""
ONE_EACH = _set(
    "life home heart mind wife husband mother father country nation government culture religion body soul name "
    "family childhood future identity career spouse homeland upbringing city"
)
"""What each has one of: "their lives" are many people's."""
