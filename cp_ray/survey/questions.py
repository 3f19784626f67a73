"""The 50 questions of World Values Survey wave 7 that CultureLLM and CulturePark start from.

The ids are the survey's official variables and the scales are its own; the wording here is ours. The
official questionnaire belongs to the World Values Survey Association (worldvaluessurvey.org).
"""

from dataclasses import dataclass

__all__ = ["QUESTIONS", "Question", "Scale"]


@dataclass(frozen=True, slots=True)
class Scale:
    """The answers to choose from, in order, and the survey's code for each."""

    labels: tuple[str, ...]
    codes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """One survey question."""

    id: str
    topic: str
    text: str
    scale: Scale


_AGREE_4 = Scale(("Strongly agree", "Agree", "Disagree", "Strongly disagree"), (1, 2, 3, 4))
_AGREE_5 = Scale(
    ("Strongly agree", "Agree", "Neither agree nor disagree", "Disagree", "Strongly disagree"), (1, 2, 3, 4, 5)
)
_EFFECT = Scale(("Disagree", "Hard to say", "Agree"), (0, 1, 2))
_FREQUENT = Scale(("Very frequently", "Quite frequently", "Not frequently", "Not at all frequently"), (1, 2, 3, 4))
_TEN = Scale(tuple(str(n) for n in range(1, 11)), tuple(range(1, 11)))
_RIGHT = Scale(("Definitely", "Probably", "Probably not", "Definitely not"), (1, 2, 3, 4))
_OFTEN = Scale(("Very often", "Fairly often", "Not often", "Not at all often"), (1, 2, 3, 4))

_AGREE = "Do you agree that {}?"
_EFFECTS = "Does immigration have this effect in your country: {}?"
_HAPPEN = "How frequently does this happen where you live: {}?"
_FROM_1_TO_10 = "From 1 (completely disagree) to 10 (completely agree), how far do you agree that {}?"
_GOVERNMENT = "Should the government have the right to {}?"
_ELECTION = "How often does this happen in your country's elections: {}?"

_WORDING: tuple[tuple[str, Scale, str, dict[str, str]], ...] = (
    ("social values", _AGREE_4, _AGREE, {
        "Q27": "one of the main things I want to achieve in life is that my parents can be proud of me",
        "Q28": "young children have a hard time when their mother goes out to work",
        "Q29": "men are in general the better leaders in politics",
        "Q30": "going to university matters more for a son than for a daughter",
        "Q31": "men are in general better at running companies",
        "Q32": "keeping house can make a person as happy as a paid job can",
    }),
    ("social values", _AGREE_5, _AGREE, {
        "Q33": "when there is little work, men deserve a job before women do",
        "Q34": "when there is little work, employers should choose people of this country over immigrants",
        "Q35": "a marriage almost surely gets into trouble when the wife earns more than the husband",
        "Q36": "two men or two women living as a couple can be parents as good as any other couple",
        "Q37": "people owe it to society to have children",
        "Q38": "grown-up children are obliged to look after their parents for a long time",
        "Q39": "someone who has no job turns lazy",
        "Q40": "working is something that everybody owes to society",
        "Q41": "work comes first at all times, even when that leaves less free time",
    }),
    ("migration", _EFFECT, _EFFECTS, {
        "Q122": "immigrants take up useful jobs that would stay vacant",
        "Q123": "immigrants make the country's culture richer and more varied",
        "Q124": "immigrants bring more crime",
        "Q125": "political refugees who are persecuted at home find shelter",
        "Q126": "immigrants make acts of terrorism more likely",
        "Q127": "people from poor countries get a chance of a better life",
        "Q128": "immigrants leave more people without work",
        "Q129": "immigrants cause tension and quarrels in society",
    }),
    ("neighbourhood security", _FREQUENT, _HAPPEN, {
        "Q132": "people are robbed",
        "Q133": "people drink alcohol in the street",
        "Q134": "police or soldiers interfere with people's private lives",
        "Q135": "people act in a racist way",
        "Q136": "drugs are sold in the street",
        "Q137": "there are fights and violence in the street",
        "Q138": "people are sexually harassed",
    }),
    ("science and technology", _TEN, _FROM_1_TO_10, {
        "Q158": "science and technology make our lives healthier, easier and more comfortable",
        "Q159": "because of science and technology, the next generation will have more opportunities",
        "Q160": "we rely on science too much and on faith too little",
        "Q161": "one of the harms of science is that it weakens people's sense of right and wrong",
        "Q162": "in my daily life it does not matter to know about science",
    }),
    ("religious values", _AGREE_4, _AGREE, {
        "Q169": "whenever science and religion contradict each other, religion is right",
        "Q170": "the only religion that can be accepted is mine",
    }),
    ("government and privacy", _RIGHT, _GOVERNMENT, {
        "Q196": "film people with cameras in public places",
        "Q197": "watch over all e-mails and whatever else is exchanged on the Internet",
        "Q198": "gather information on anyone who lives here without telling them",
    }),
    ("elections", _OFTEN, _ELECTION, {
        "Q224": "the votes are counted honestly",
        "Q225": "candidates of the opposition are kept from running",
        "Q226": "television news takes the side of the governing party",
        "Q227": "voters are given bribes",
        "Q228": "journalists report on the election fairly",
        "Q229": "the officials who run the election are fair",
        "Q230": "rich people buy the result",
        "Q231": "voters are threatened with violence at the polling stations",
        "Q232": "voters have a real choice between candidates",
        "Q233": "women have the same chance as men to run for office",
    }),
)  # fmt: skip

QUESTIONS: dict[str, Question] = {
    id: Question(id, topic, stem.format(text), scale)
    for topic, scale, stem, wording in _WORDING
    for id, text in wording.items()
}
"""Every question by its official variable."""
