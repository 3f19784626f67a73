// What the page is made of. Whatever a model says is put in as text, never as markup.

export const at = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// What went wrong, at the top of what is seen, or nothing.
export function problem(error) {
  at("problem").hidden = !error; // first, since a screen reader tells what changes in an alert that is there
  at("problem-text").textContent = error ? error.message || String(error) : "";
}

// Who is ticked in a fieldset: at least one.
export function checked(id) {
  const ticked = [...at(id).querySelectorAll("input:checked")].map((box) => box.value);
  const legend = at(id).querySelector("legend").textContent;
  if (!ticked.length) throw new Error(`Nobody is ticked under “${legend}”: tick at least one.`);
  return ticked;
}

// Each of these texts may be of another language, and runs its own way.
export const own = (text) => element("bdi", { dir: "auto", textContent: text });

export function bars(options, shares, guess) {
  return options.map((option, k) => element("div", { className: "bar" },
    element("span", {}, k === guess ? "Your guess: " : "", own(option)),
    element("meter", { min: 0, max: 1, value: shares[k], ariaLabel: option }),
    element("span", { textContent: `${Math.round(100 * shares[k])} %` })));
}

// A screen reader waits until an answer is there, and does not read every piece of it.
export async function busy(region, work) {
  region.setAttribute("aria-busy", "true");
  try {
    return await work();
  } finally {
    region.setAttribute("aria-busy", "false");
  }
}

// A form that does one thing at a time, and nothing while its button is disabled. Its button Stop, if it has one, tells
// the work by a signal to end, and so does the function that comes back.
export function form(id, work) {
  const go = at(`${id}-form`).querySelector("[type=submit]"), stop = at(`${id}-stop`);
  let under = null;
  at(`${id}-form`).addEventListener("submit", async (event) => {
    event.preventDefault();
    if (go.disabled) return;
    problem();
    under = new AbortController();
    const back = swap(go, stop);
    try {
      await work(under.signal);
    } catch (error) {
      if (error.name !== "AbortError") problem(error);
    }
    back();
  });
  const end = () => under && under.abort();
  stop?.addEventListener("click", end);
  stop?.addEventListener("keydown", (event) => event.repeat && event.preventDefault()); // the key that said go is held
  return end;
}

// Stop can be pressed in the place of the button that was; whoever is at the keyboard stays at what can be pressed.
function swap(go, stop) {
  const here = document.activeElement === go;
  go.disabled = true;
  if (stop) stop.disabled = false;
  if (here) stop?.focus();
  return () => {
    const now = document.activeElement, there = now === stop || (here && [go, document.body].includes(now));
    go.disabled = go.hidden;
    if (stop) stop.disabled = true;
    if (there) go.focus();
  };
}
