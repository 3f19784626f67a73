// A text, as several cultures see it.

import { at, busy, checked, element, form } from "./elements.js";
import { known, named, title } from "./models.js";
import { ask } from "./server.js";

export function moderateForm() {
  form("moderate", async () => {
    at("judgement").textContent = "…";
    try {
      await busy(at("judgement"), judge);
    } catch (error) {
      at("judgement").textContent = "";
      throw error;
    }
  });
}

async function judge() {
  await known();
  const culture = checked("moderate-models");
  const result = (await ask("v1/moderations", { input: at("moderate-text").value, culture })).results[0];
  const by = result.cultures || { [culture[0]]: result };
  const name = (id) => (named(id) ? title(named(id)) : id);
  const head = element("tr", {}, element("th", { textContent: "Category", scope: "col" }),
    ...Object.keys(by).map((id) => element("th", { textContent: name(id), scope: "col" })));
  const rows = Object.keys(result.categories).map((category) => element("tr", {},
    element("th", { scope: "row" }, ...broken(category)),
    ...Object.values(by).map((one) => element("td", {
      textContent: one.category_scores[category].toFixed(2) + (one.categories[category] ? " flagged" : ""),
      className: one.categories[category] ? "flagged" : "",
    }))));
  at("judgement").replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}

// A category such as hate/threatening, which on a narrow screen goes on below the slash.
function broken(category) {
  const [whole, part] = category.split("/");
  return part ? [`${whole}/`, element("wbr"), part] : [whole];
}
