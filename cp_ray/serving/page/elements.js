// What the page is made of. Whatever a model says is put in as text, never as markup.

export const at = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export function problem(error) {
  at("problem").textContent = error ? error.message || String(error) : "";
  at("problem").hidden = !error;
}

export const checked = (id) => [...at(id).querySelectorAll("input:checked")].map((box) => box.value);

export function bars(options, shares, mark) {
  return options.map((option, k) => element("div", { className: "bar" },
    element("span", { textContent: (k === mark ? "→ " : "") + option }),
    element("meter", { min: 0, max: 1, value: shares[k], ariaLabel: option }),
    element("span", { textContent: `${Math.round(100 * shares[k])} %` })));
}

// A form that does one thing at a time, and nothing while its button is disabled.
export function form(id, work) {
  const go = at(`${id}-form`).querySelector("[type=submit]");
  at(`${id}-form`).addEventListener("submit", async (event) => {
    event.preventDefault();
    if (go.disabled) return;
    problem();
    go.disabled = true;
    try {
      await work();
    } catch (error) {
      problem(error);
    }
    go.disabled = go.hidden;
  });
}
