// What the page asks its server.

import { at } from "./elements.js";

const root = document.baseURI.replace(/[?#].*$/, "").replace(/[^/]*$/, "");

export const LONGEST = 200; // tokens of an answer

// What was stopped stays an AbortError; of anything else the browser says hardly more than that it failed.
const lost = (message) => (error) => { throw error.name === "AbortError" ? error : new Error(message); };

async function call(path, body, signal) {
  const headers = { "content-type": "application/json" };
  if (at("key").value) headers.authorization = `Bearer ${at("key").value}`;
  const options = { headers, signal };
  if (body !== undefined) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  const response = await fetch(root + path, options).catch(lost("The server is not reached. Does it still run?"));
  if (!response.ok) {
    const said = await response.json().catch(() => null);
    const again = response.headers.get("retry-after");
    throw new Error((said && said.error ? said.error.message : `Error ${response.status}`) + (again ? ` (in ${again} s)` : ""));
  }
  return response;
}

export const ask = async (path, body) => (await call(path, body)).json();

// The data of server-sent events, each when it is whole.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read().catch(lost("The connection broke before the answer's end; ask again."));
      // A line ends with CR LF, LF or CR; a CR that is the last to have come may be half of the first.
      const lines = (rest + (value || "")).split(done ? /\r\n|\n|\r/ : /\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
        if (line === "" && data.length) yield data.splice(0).join("\n");
        // Comments, which begin with a colon, and other fields mean nothing here.
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever has heard enough lets the server rest
  }
}

// A chat: each piece of the answer goes to `onText`. Tells whether it was cut at the most that was asked for.
export async function stream(model, messages, onText, signal) {
  const body = { model, messages, stream: true, max_tokens: LONGEST, temperature: 0.7 };
  let cut = false;
  for await (const data of events((await call("v1/chat/completions", body, signal)).body)) {
    if (data === "[DONE]") return cut;
    const said = JSON.parse(data);
    if (said.error) throw new Error(said.error.message);
    for (const choice of said.choices) {
      onText(choice.delta.content || "");
      cut = cut || choice.finish_reason === "length";
    }
  }
  throw new Error("The server ended the answer before its end; ask again.");
}
