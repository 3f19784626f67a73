// One question, several cultures.

import { at, checked, element, problem } from "./elements.js";
import { models, title } from "./models.js";
import { stream } from "./server.js";

export function askForm() {
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
