// A talk with one model.

import { at, element, problem } from "./elements.js";
import { stream } from "./server.js";

export function learnForm() {
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
