// The models that this server has for the holder of the key.

import { ask } from "./server.js";

export let models = [];

export async function load() {
  models = (await ask("v1/models")).data;
}

export const title = (model) => (model.culture ? model.id[0].toUpperCase() + model.id.slice(1) : model.id);
