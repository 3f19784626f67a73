"use strict";
// The page of a cp_ray server. Whatever a model says is put in as text, never as markup.

const at = (id) => document.getElementById(id);
const root = document.baseURI.replace(/[?#].*$/, "").replace(/[^/]*$/, "");
let models = [];

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function problem(error) {
  at("problem").textContent = error ? error.message || String(error) : "";
  at("problem").hidden = !error;
}

async function call(path, body, signal) {
  const headers = { "content-type": "application/json" };
  if (at("key").value) headers.authorization = `Bearer ${at("key").value}`;
  const options = { headers, signal };
  if (body !== undefined) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  const response = await fetch(root + path, options);
  if (!response.ok) {
    const said = await response.json().catch(() => null);
    const again = response.headers.get("retry-after");
    throw new Error((said && said.error ? said.error.message : `Error ${response.status}`) + (again ? ` (in ${again} s)` : ""));
  }
  return response;
}

const ask = async (path, body) => (await call(path, body)).json();

// Server-sent events of a chat: each piece of text goes to `onText`.
async function stream(model, messages, onText, signal) {
  const body = { model, messages, stream: true, max_tokens: 200, temperature: 0.7 };
  const reader = (await call("v1/chat/completions", body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const said = JSON.parse(data);
      if (said.error) throw new Error(said.error.message);
      if (said.choices.length) onText(said.choices[0].delta.content || "");
    }
  }
}

const title = (model) => (model.culture ? model.id[0].toUpperCase() + model.id.slice(1) : model.id);

function tabs() {
  const all = [...document.querySelectorAll("[role=tab]")];
  const show = (tab) => {
    for (const one of all) {
      const own = one === tab;
      one.setAttribute("aria-selected", own);
      one.tabIndex = own ? 0 : -1;
      at(one.getAttribute("aria-controls")).hidden = !own;
    }
    tab.focus();
    problem();
  };
  all.forEach((tab, k) => {
    tab.addEventListener("click", () => show(tab));
    tab.addEventListener("keydown", (event) => {
      const rtl = getComputedStyle(tab).direction === "rtl" ? -1 : 1;
      const step = { ArrowRight: rtl, ArrowLeft: -rtl }[event.key];
      if (step) show(all[(k + step + all.length) % all.length]);
    });
  });
}

function boxes(into, chosen) {
  for (const model of chosen) {
    const box = element("input", { type: "checkbox", value: model.id, checked: true });
    at(into).append(element("label", {}, box, title(model)));
  }
}

const checked = (id) => [...at(id).querySelectorAll("input:checked")].map((box) => box.value);

function askForm() {
  let stop = null;
  at("ask-stop").addEventListener("click", () => stop && stop.abort());
  at("ask-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    problem();
    stop = new AbortController();
    at("ask-stop").disabled = false;
    at("answers").replaceChildren();
    const messages = [{ role: "user", content: at("ask-text").value }];
    await Promise.all(checked("ask-models").map(async (id) => {
      const said = element("p", { className: "said", dir: "auto" });
      const card = element("article", {}, element("h2", { textContent: title(models.find((m) => m.id === id)) }), said);
      at("answers").append(card);
      try {
        await stream(id, messages, (text) => said.append(text), stop.signal);
      } catch (error) {
        if (error.name !== "AbortError") card.append(element("p", { className: "flagged", textContent: error.message }));
      }
    }));
    at("ask-stop").disabled = true;
  });
}

function moderateForm() {
  at("moderate-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    problem();
    at("judgement").textContent = "…";
    try {
      const culture = checked("moderate-models");
      if (!culture.length) throw new Error("Choose at least one point of view.");
      const result = (await ask("v1/moderations", { input: at("moderate-text").value, culture })).results[0];
      const by = result.cultures || { [culture[0]]: result };
      const head = element("tr", {}, element("th", { textContent: "Category", scope: "col" }),
        ...Object.keys(by).map((id) => element("th", { textContent: id, scope: "col" })));
      const rows = Object.keys(result.categories).map((category) => element("tr", {},
        element("th", { textContent: category, scope: "row" }),
        ...Object.values(by).map((one) => element("td", {
          textContent: one.category_scores[category].toFixed(2) + (one.categories[category] ? " flagged" : ""),
          className: one.categories[category] ? "flagged" : "",
        }))));
      at("judgement").replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
    } catch (error) {
      at("judgement").textContent = "";
      problem(error);
    }
  });
}

function learnForm() {
  let messages = [];
  const anew = () => { messages = []; at("talk").replaceChildren(); };
  at("learn-new").addEventListener("click", anew);
  at("learn-model").addEventListener("change", anew);
  at("learn-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    problem();
    const text = at("learn-text").value;
    const said = element("p", { className: "said", dir: "auto" });
    at("talk").append(element("li", { className: "mine" }, element("p", { className: "said", dir: "auto", textContent: text })),
      element("li", {}, said));
    at("learn-text").value = "";
    messages.push({ role: "user", content: text });
    const going = messages;
    try {
      await stream(at("learn-model").value, going, (piece) => said.append(piece));
      going.push({ role: "assistant", content: said.textContent });
    } catch (error) {
      problem(error);
      going.pop();
    }
  });
}

function bars(options, shares, mark) {
  return options.map((option, k) => element("div", { className: "bar" },
    element("span", { textContent: (k === mark ? "→ " : "") + option }),
    element("meter", { min: 0, max: 1, value: shares[k], ariaLabel: option }),
    element("span", { textContent: `${Math.round(100 * shares[k])} %` })));
}

// What a learner has guessed stays in this browser.
const kept = (culture) => JSON.parse(localStorage.getItem(`cp_ray.quiz.${culture}`) || "[]");
const keep = (culture, guesses) => localStorage.setItem(`cp_ray.quiz.${culture}`, JSON.stringify(guesses));

function quizForm() {
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

async function begin() {
  tabs();
  askForm();
  moderateForm();
  learnForm();
  quizForm();
  const load = async () => {
    try {
      models = (await ask("v1/models")).data;
      problem();
    } catch (error) {
      problem(error);
      return;
    }
    const cultures = models.filter((m) => m.culture);
    for (const id of ["ask-models", "moderate-models"]) at(id).querySelectorAll("label").forEach((old) => old.remove());
    boxes("ask-models", cultures.length ? cultures : models);
    boxes("moderate-models", cultures);
    at("learn-model").replaceChildren(...models.map((m) => element("option", { value: m.id, textContent: title(m) })));
    at("quiz-culture").replaceChildren(...cultures.map((m) => element("option", { value: m.culture, textContent: title(m) })));
  };
  at("key").addEventListener("change", load);
  await load();
}

begin();
