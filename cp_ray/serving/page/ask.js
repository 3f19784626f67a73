// One question, several cultures.

import { answer } from "./answer.js";
import { at, busy, checked, element, form } from "./elements.js";
import { known, named, title } from "./models.js";

export function askForm() {
  form("ask", async (signal) => {
    await known();
    const asked = checked("ask-models");
    at("answers").replaceChildren();
    const messages = [{ role: "user", content: at("ask-text").value }];
    await busy(at("answers"), () => Promise.all(asked.map(async (id) => {
      const card = element("article", {}, element("h2", { textContent: title(named(id)) }));
      at("answers").append(card);
      try {
        await answer(card, named(id), messages, signal);
      } catch (error) {
        card.append(element("p", { className: "flagged", textContent: error.message }));
      }
    })));
  });
}
