// The survey as a quiz.

import { at, bars, element, form, own, problem } from "./elements.js";
import { known } from "./models.js";
import { ask } from "./server.js";

// What a learner has guessed stays in this browser: one guess for a question, the first.
const place = (culture) => `cp_ray.quiz.${culture}`;
const write = (culture, guesses) => localStorage.setItem(place(culture), JSON.stringify(guesses));

const MOST = 200; // guesses that the server takes

function kept(culture) {
  const first = new Map();
  for (const guess of JSON.parse(localStorage.getItem(place(culture)) || "[]")) {
    if (!first.has(guess.question)) first.set(guess.question, guess);
  }
  return [...first.values()];
}

export function quizForm() {
  let questions = [], now = null, turn = 0;
  const culture = () => at("quiz-culture").value;
  // A guess may be of another survey's question, made at another time on this address.
  const fits = (guess) => questions.some((q) => q.id === guess.question && guess.option < q.options.length);
  const guesses = () => kept(culture()).filter(fits);
  const keep = (guess) => {
    if (guesses().some((one) => one.question === guess.question)) return; // from another window of this browser
    write(culture(), [...kept(culture()).filter((one) => one.question !== guess.question), guess]);
  };
  const progress = () => {
    const done = guesses().length;
    at("quiz-progress").textContent = questions.length ? `${done} of ${questions.length} questions answered` : "";
    at("quiz-end").hidden = !done;
    at("quiz-reset").hidden = !questions.length;
  };
  const show = (heading) => {
    at("quiz-answer").replaceChildren();
    at("quiz-go").hidden = at("quiz-go").disabled = !now;
    at("quiz-next").hidden = true;
    at("quiz-question").hidden = !heading;
    at("quiz-question").disabled = false;
    at("quiz-question").replaceChildren(element("legend", { dir: "auto", textContent: heading }));
    if (now) now.options.forEach((option, k) => at("quiz-question").append(element("label", {},
      element("input", { type: "radio", name: "option", value: k, required: true }), own(option))));
    progress();
  };
  const next = () => {
    const done = guesses();
    now = questions.find((q) => !done.some((guess) => guess.question === q.id)) || null;
    const name = at("quiz-culture").selectedOptions[0].textContent;
    const none = `There are no questions about ${name}: no survey answers of theirs are known here.`;
    show(now ? now.question : questions.length ? "All questions are answered." : none);
  };
  const load = async () => {
    const mine = ++turn;
    problem();
    at("quiz-score").replaceChildren();
    at("quiz-survey").textContent = "";
    questions = [];
    now = null;
    show("");
    try {
      await known();
      if (mine !== turn || !culture()) return; // the server may have no culture models
      const found = await ask(`v1/education/quiz?culture=${encodeURIComponent(culture())}`);
      if (mine !== turn) return; // another culture has been chosen meanwhile
      questions = found.questions;
      const { name, terms } = found.survey;
      at("quiz-survey").textContent = questions.length ? `As people answered in ${name}. ${terms}` : "";
      next();
    } catch (error) { problem(error); }
  };
  at("quiz-culture").addEventListener("change", load);
  at("quiz").addEventListener("shown", () => questions.length || load());
  at("quiz").addEventListener("anew", () => {
    questions = [];
    if (!at("quiz").hidden) load();
  });
  at("quiz-next").addEventListener("click", () => { next(); at("quiz-question").querySelector("input")?.focus(); });
  at("quiz-reset").addEventListener("click", () => {
    turn++;
    write(culture(), []);
    at("quiz-score").replaceChildren();
    next();
  });
  form("quiz", async () => {
    const mine = turn, option = Number(new FormData(at("quiz-form")).get("option"));
    const marked = await ask("v1/education/quiz", { culture: culture(), question: now.id, option });
    if (mine !== turn) return;
    keep({ question: now.id, option });
    const verdict = marked.right ? ["That is the commonest answer."] : ["Most people answer: ", own(marked.options[marked.commonest]), "."];
    at("quiz-answer").replaceChildren(element("p", {}, ...verdict), ...bars(marked.options, marked.distribution, option));
    // Whoever has seen the answer guesses no more.
    at("quiz-question").disabled = at("quiz-go").hidden = true;
    at("quiz-next").hidden = false;
    progress();
    at("quiz-next").focus();
  });
  at("quiz-end").addEventListener("click", async () => {
    try {
      const exam = await ask("v1/education/exam", { culture: culture(), guesses: guesses().slice(-MOST) });
      const right = exam.marked.filter((m) => m.right).length;
      at("quiz-score").replaceChildren(element("h2", { textContent: "Your score" }),
        ...bars(["You", "Someone who takes all answers for equally common"], [exam.score, exam.uniform_score]),
        element("p", { textContent: `${right} of ${exam.answered} times you named the commonest answer. ` +
          "100 % means that everybody answers as you said." }));
    } catch (error) { problem(error); }
  });
}
