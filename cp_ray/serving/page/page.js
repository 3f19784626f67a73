// The page of a cp_ray server.

import { askForm } from "./ask.js";
import { at, element, problem } from "./elements.js";
import { learnForm } from "./learn.js";
import { load, models, title } from "./models.js";
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

async function begin() {
  tabs();
  at("problem-close").addEventListener("click", () => problem());
  askForm();
  moderateForm();
  learnForm();
  quizForm();
  const fill = async () => {
    try {
      await load();
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
  at("key").addEventListener("change", fill);
  await fill();
}

begin();
