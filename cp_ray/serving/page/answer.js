// An answer as it comes, and below it how it ended.

import { element } from "./elements.js";
import { LONGEST, stream } from "./server.js";

const note = (text) => element("p", { className: "note", textContent: text });

// The whole text of a model's answer, or what there is of it where it is stopped.
export async function answer(into, model, messages, signal) {
  const said = element("p", { className: "said", dir: "auto", lang: model.locales[0] || "" });
  into.append(said);
  try {
    const cut = await stream(model.id, messages, (text) => said.append(text), signal);
    if (!said.textContent) throw new Error("No answer came; ask in other words.");
    if (cut) into.append(note(`Cut here: this page asks for ${LONGEST} tokens at most.`));
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    into.append(note("Stopped."));
  }
  return said.textContent;
}
