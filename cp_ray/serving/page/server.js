// What the page asks its server.

import { at } from "./elements.js";

const root = document.baseURI.replace(/[?#].*$/, "").replace(/[^/]*$/, "");

async function call(path, body, signal) {
  const headers = { "content-type": "application/json" };
  if (at("key").value) headers.authorization = `Bearer ${at("key").value}`;
  const options = { headers, signal };
  if (body !== undefined) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  const response = await fetch(root + path, options);
  if (!response.ok) {
    const said = await response.json().catch(() => null);
    const again = response.headers.get("retry-after");
    throw new Error((said && said.error ? said.error.message : `Error ${response.status}`) + (again ? ` (in ${again} s)` : ""));
  }
  return response;
}

export const ask = async (path, body) => (await call(path, body)).json();

// Server-sent events of a chat: each piece of text goes to `onText`.
export async function stream(model, messages, onText, signal) {
  const body = { model, messages, stream: true, max_tokens: 200, temperature: 0.7 };
  const reader = (await call("v1/chat/completions", body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const said = JSON.parse(data);
      if (said.error) throw new Error(said.error.message);
      if (said.choices.length) onText(said.choices[0].delta.content || "");
    }
  }
}
