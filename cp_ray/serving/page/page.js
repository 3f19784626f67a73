// The page of a cp_ray server.

import { askForm } from "./ask.js";
import { at, element, problem } from "./elements.js";
import { learnForm } from "./learn.js";
import { load, models, title, whenKnown } from "./models.js";
import { moderateForm } from "./moderate.js";
import { quizForm } from "./quiz.js";

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
    at(tab.getAttribute("aria-controls")).dispatchEvent(new Event("shown"));
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

// Every list of models, from those that are known.
function fill() {
  const cultures = models.filter((m) => m.culture);
  for (const id of ["ask-models", "moderate-models"]) at(id).querySelectorAll("label").forEach((old) => old.remove());
  boxes("ask-models", cultures.length ? cultures : models);
  boxes("moderate-models", cultures);
  at("learn-model").replaceChildren(...models.map((m) => element("option", { value: m.id, textContent: title(m) })));
  at("quiz-culture").replaceChildren(...cultures.map((m) => element("option", { value: m.culture, textContent: title(m) })));
  // Two of the tabs are about cultures and nothing else.
  for (const id of ["moderate", "quiz"]) {
    at(`${id}-form`).hidden = !cultures.length;
    at(`${id}-none`).hidden = cultures.length > 0;
  }
  at("quiz").dispatchEvent(new Event("anew"));
}

async function begin() {
  tabs();
  at("problem-close").addEventListener("click", () => problem());
  askForm();
  moderateForm();
  learnForm();
  quizForm();
  whenKnown(fill);
  const begun = () => load().then(() => problem(), problem);
  at("key").addEventListener("change", begun);
  await begun();
}

begin();
