"""Situated learning: does a talk with a model teach anybody about a culture?

A learner takes an exam on how a culture's people answered a survey, talks with a tutor, and takes the exam again. What
it has learnt is the fall of the exam's distance to the people's answers. Half of the learners talk about what the exam
asks, the others about other questions of the survey, which shows how much of the gain is not from the talk's content.

All of this is plain functions, for learners who are simulated here and for people in an application alike: the exam's
questions, the marking, and what is said in a talk. Learners who are simulated never say how satisfied they are: that
question (`SATISFACTION`) is for people.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cp_ray.cultures import Culture
from cp_ray.errors import ConfigError
from cp_ray.evals.answer import option_of
from cp_ray.evals.distances import emd
from cp_ray.evals.intervals import interval
from cp_ray.llm.call import Generate, Sampling
from cp_ray.records import Message, Score, Seed

__all__ = [
    "SATISFACTION", "TASK", "Exam", "Lesson", "Said", "ask_tutor", "exam_chat", "exam_of", "falls", "learn",
    "learning_gains", "lessons", "mark", "reply", "tutor_chat",
]  # fmt: skip

TASK = "learning"

SATISFACTION = ("How satisfied are you with this talk?", ("1", "2", "3", "4", "5"))
"""From 1, not at all, to 5, very. Asked of people only."""


@dataclass(frozen=True, slots=True)
class Exam:
    """One question of an exam: which answer do most of a culture's people give?"""

    question_id: str
    question: str
    options: tuple[str, ...]
    distribution: tuple[float, ...]
    """The people's answers."""


@dataclass(frozen=True, slots=True)
class Said:
    """One utterance of a talk."""

    role: str
    """`learner` or `tutor`."""
    text: str


@dataclass(frozen=True, slots=True)
class Lesson:
    """One learner's way from the first exam to the second."""

    id: str
    """`tutor/culture/learner`."""
    culture: str
    people: str
    tutor: str
    learner: int
    about: str
    """`asked`: the talk is on what the exam asks; `other`: on other questions."""
    exam: tuple[Exam, ...]
    topics: tuple[str, ...]
    """Questions to talk about, one a round."""
    talk: tuple[Said, ...] = ()
    before: tuple[str, ...] = ()
    """Answers to the exam, one a question, empty where the learner named no option."""
    after: tuple[str, ...] = ()
    reject: str | None = None


@dataclass(frozen=True)
class LearnerConfig:
    """How a learner is simulated."""

    model: str
    max_tokens: int = 48
    temperature: float = 0.7
    seed: int = 0
    url: str = ""
    """Of its server."""


def exam_of(seeds: Iterable[Seed], culture: str) -> list[Exam]:
    """The questions that a culture's people were asked, as an exam."""
    return [Exam(s.question_id, s.question, s.options, s.distribution) for s in seeds if s.culture == culture]


def lessons(
    questions: Sequence[Exam], culture: Culture, tutor: str, *, learners: int, length: int, rounds: int, seed: int
) -> list[Lesson]:
    """Lessons that are to be held: half of the learners talk about the exam, half about other questions.

    Args:
        questions: of the survey, for that culture.
        culture: that is learnt about.
        tutor: the model's name.
        learners: at least two.
        length: questions of an exam.
        rounds: questions that are talked about, at most as many as the exam has.
        seed: of who gets which questions; the same for every tutor.

    Raises:
        ConfigError: there are too few learners or questions.
    """
    if learners < 2:
        raise ConfigError(f"learners: must be at least 2, got {learners}")
    if not 1 <= rounds <= length:
        raise ConfigError(f"rounds: must be from 1 to the exam's {length} questions, got {rounds}")
    if length + rounds > len(questions):
        raise ConfigError(
            f"length: {length} questions and {rounds} others are more than the {len(questions)} there are"
        )
    held = []
    for learner in range(learners):
        # Two learners in a row get the same exam, one for each sort of talk.
        drawn = random.Random(f"{seed}/{learner // 2}").sample(list(questions), length + rounds)
        exam, others = tuple(drawn[:length]), drawn[length:]
        about, topics = ("other", others) if learner % 2 else ("asked", drawn[:rounds])
        held.append(
            Lesson(
                f"{tutor}/{culture.id}/{learner}", culture.id, culture.people, tutor, learner, about, exam,
                tuple(topic.question for topic in topics),
            )
        )  # fmt: skip
    return held


def exam_chat(people: str, question: Exam, talk: Sequence[Said]) -> tuple[Message, ...]:
    """One question of an exam, put to a learner who has had a talk, or none."""
    system = f"You are a student who learns about {people}."
    if talk:
        heard = "\n".join(f"{'You' if said.role == 'learner' else 'Tutor'}: {said.text}" for said in talk)
        system += f" You have had this talk:\n{heard}"
    asked = f"Which answer do most {people} give to this question?\n{question.question}"
    listed = "; ".join(question.options)
    return Message("system", system), Message("user", f"{asked}\nReply with nothing but one of: {listed}")


def mark(exam: Sequence[Exam], answers: Sequence[str]) -> dict[str, float]:
    """Distance of each answer to the people's (earth mover's, 0 to 1); a question without an answer has none."""
    found = {}
    for question, answer in zip(exam, answers, strict=True):
        if answer in question.options:
            sure = [float(option == answer) for option in question.options]
            found[question.question_id] = emd(sure, question.distribution)
    return found


def tutor_chat(lesson: Lesson) -> tuple[Message, ...]:
    """The talk so far, as the tutor sees it."""
    system = Message("system", f"You tell a student about {lesson.people}, in two or three sentences.")
    roles = {"learner": "user", "tutor": "assistant"}
    return system, *(Message(roles[said.role], said.text) for said in lesson.talk)


async def learn(lesson: Lesson, generate: Generate, config: LearnerConfig) -> list[Lesson]:
    """The exam: before the talk where there has been none, after it otherwise."""
    answers = []
    for question in lesson.exam:
        said = await generate(
            exam_chat(lesson.people, question, lesson.talk),
            Sampling(config.temperature, config.max_tokens, config.seed + lesson.learner),
        )
        answers.append(option_of(said.text, question.options) or "")
    return [replace(lesson, after=tuple(answers)) if lesson.talk else replace(lesson, before=tuple(answers))]


def ask_tutor(lesson: Lesson) -> Lesson:
    """The learner's next question: the next of its topics, in words of our own, so that no tutor is asked otherwise."""
    topic = lesson.topics[len(lesson.talk) // 2]
    text = f"How do {lesson.people} think about this, and why? {topic}"
    return replace(lesson, talk=(*lesson.talk, Said("learner", text)))


async def reply(lesson: Lesson, generate: Generate, config: LearnerConfig) -> list[Lesson]:
    """The whole talk: the learner's questions and the tutor's answers. A tutor who falls silent ends the lesson."""
    for _ in lesson.topics:
        lesson = ask_tutor(lesson)
        said = await generate(tutor_chat(lesson), Sampling(config.temperature, config.max_tokens, config.seed))
        if not said.text.strip():
            return [replace(lesson, reject=f"no answer: {said.finish_reason}")]
        lesson = replace(lesson, talk=(*lesson.talk, Said("tutor", said.text.strip())))
    return [lesson]


def falls(lesson: Lesson) -> dict[str, float]:
    """By how much each question's distance fell (-1 to 1), of those answered both times; none without a talk."""
    if lesson.reject is not None or not lesson.before or not lesson.after:
        return {}
    before, after = (mark(lesson.exam, answers) for answers in (lesson.before, lesson.after))
    return {id: before[id] - after[id] for id in before if id in after}


def learning_gains(held: Iterable[Lesson], *, resamples: int = 2000, seed: int = 0) -> list[Score]:
    """Fall of the exam's distance by tutor, culture and sort of talk, intervals over learners.

    A learner's figure is over the questions that it answered both times.
    """
    gains: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for lesson in held:
        fallen = falls(lesson)
        if fallen:
            gains[lesson.tutor, lesson.culture, lesson.about].append(sum(fallen.values()) / len(fallen))
    scores = []
    for (tutor, culture, about), own in gains.items():
        found = interval(own, resamples=resamples, seed=seed, bounds=(-1.0, 1.0))
        scores.append(Score(tutor, culture, TASK, f"gain_{about}", found.mean, found.low, found.high, len(own)))
    return scores
