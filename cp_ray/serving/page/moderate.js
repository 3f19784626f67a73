// A text, as several cultures see it.

import { at, checked, element, problem } from "./elements.js";
import { ask } from "./server.js";

export function moderateForm() {
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
