// A talk with one model.

import { answer } from "./answer.js";
import { at, busy, element, form } from "./elements.js";
import { known, named } from "./models.js";

export function learnForm() {
  let talk = []; // what both have said to its end
  const turn = async (signal) => {
    await known();
    const text = at("learn-text").value, own = talk, asked = { role: "user", content: text };
    const mine = element("li", { className: "mine" }, element("p", { className: "said", dir: "auto", textContent: text }));
    const theirs = element("li");
    at("talk").querySelectorAll(".lost").forEach((old) => old.remove());
    at("talk").append(mine, theirs);
    at("learn-text").value = "";
    let said = "";
    try {
      const model = named(at("learn-model").value);
      said = await busy(at("talk"), () => answer(theirs, model, [...own, asked], signal));
    } finally {
      if (said) own.push(asked, { role: "assistant", content: said });
      else if (own === talk) takeBack(text, mine, theirs);
    }
  };
  const stop = form("learn", turn);
  const anew = () => { stop(); talk = []; at("talk").replaceChildren(); };
  at("learn-new").addEventListener("click", anew);
  at("learn-model").addEventListener("change", anew);
}

// A turn that failed is none: its words go back to where they were typed. What has been read of an answer stays to be
// read until the next turn.
function takeBack(text, mine, theirs) {
  at("learn-text").value = [text, at("learn-text").value].filter(Boolean).join("\n");
  for (const bubble of [mine, theirs]) {
    if (theirs.querySelector(".said").textContent) bubble.classList.add("lost");
    else bubble.remove();
  }
}
