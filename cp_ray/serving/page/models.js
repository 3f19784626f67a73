// The models that this server has for the holder of the key.

import { ask } from "./server.js";

export let models = [];
let fill = () => {};

// What is to be done with them whenever they are known anew.
export const whenKnown = (work) => { fill = work; };

export async function load() {
  models = (await ask("v1/models")).data;
  if (!models.length) throw new Error("This server has no model that you may ask; another API key may.");
  fill();
}

// Where they could not be had, for want of a key or of the server, they are asked for again.
export const known = async () => models.length || load();

export const named = (id) => models.find((model) => model.id === id);

export const title = (model) => (model.culture ? model.id[0].toUpperCase() + model.id.slice(1) : model.id);
