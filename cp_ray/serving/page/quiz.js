// The survey as a quiz.

import { at, bars, element, problem } from "./elements.js";
import { ask } from "./server.js";

// What a learner has guessed stays in this browser.
const kept = (culture) => JSON.parse(localStorage.getItem(`cp_ray.quiz.${culture}`) || "[]");
const keep = (culture, guesses) => localStorage.setItem(`cp_ray.quiz.${culture}`, JSON.stringify(guesses));

export function quizForm() {
  let questions = [], now = null;
  const culture = () => at("quiz-culture").value;
  const next = () => {
    const done = kept(culture());
    now = questions.find((q) => !done.some((g) => g.question === q.id)) || null;
    at("quiz-progress").textContent = `${done.length} of ${questions.length} questions answered`;
    at("quiz-answer").replaceChildren();
    at("quiz-go").hidden = !now;
    at("quiz-next").hidden = true;
    at("quiz-end").hidden = !done.length;
    at("quiz-question").replaceChildren(element("legend", { textContent: now ? now.question : "All questions are answered." }));
    if (now) now.options.forEach((option, k) => at("quiz-question").append(element("label", {},
      element("input", { type: "radio", name: "option", value: k, required: true }), option)));
  };
  const load = async () => {
    problem();
    at("quiz-score").replaceChildren();
    if (!culture()) return;
    try {
      questions = (await ask(`v1/education/quiz?culture=${encodeURIComponent(culture())}`)).questions;
      next();
    } catch (error) { problem(error); }
  };
  at("quiz-culture").addEventListener("change", load);
  at("tab-quiz").addEventListener("click", load);
  at("tab-quiz").addEventListener("focus", () => questions.length || load());
  at("quiz-next").addEventListener("click", () => { next(); at("quiz-question").querySelector("input")?.focus(); });
  at("quiz-reset").addEventListener("click", () => { keep(culture(), []); load(); });
  at("quiz-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const option = Number(new FormData(at("quiz-form")).get("option"));
    try {
      const marked = await ask("v1/education/quiz", { culture: culture(), question: now.id, option });
      keep(culture(), [...kept(culture()), { question: now.id, option }]);
      const verdict = marked.right ? "That is the commonest answer." : `Most people answer: ${marked.options[marked.commonest]}.`;
      at("quiz-answer").replaceChildren(element("p", { textContent: verdict }), ...bars(marked.options, marked.distribution, option));
      at("quiz-go").hidden = true;
      at("quiz-next").hidden = at("quiz-end").hidden = false;
      at("quiz-progress").textContent = `${kept(culture()).length} of ${questions.length} questions answered`;
      at("quiz-next").focus();
    } catch (error) { problem(error); }
  });
  at("quiz-end").addEventListener("click", async () => {
    try {
      const exam = await ask("v1/education/exam", { culture: culture(), guesses: kept(culture()) });
      const right = exam.marked.filter((m) => m.right).length;
      at("quiz-score").replaceChildren(element("h2", { textContent: "Your score" }),
        ...bars(["You", "Someone who takes all answers for equally common"], [exam.score, exam.uniform_score], 0),
        element("p", { textContent: `${right} of ${exam.answered} times you named the commonest answer. ` +
          "100 % means that everybody answers as you said." }));
    } catch (error) { problem(error); }
  });
}
