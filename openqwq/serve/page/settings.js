// The settings dialog, and what the settings mean for a request.
import { getJson } from "./api.js";
import { find, make, remember, remembered } from "./dom.js";

const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "seed", "max_completion_tokens", "thinking_budget"];
const form = find("#settings form");
const picker = find("#model");

/** The fields that the settings put into a request. */
export function requestFields() {
  const values = remembered("settings", {});
  const fields = values.model ? { model: values.model } : {};
  for (const name of NUMBERS) if (values[name] !== undefined && values[name] !== "") fields[name] = Number(values[name]);
  if (values.tools?.trim()) fields.tools = JSON.parse(values.tools);
  return fields;
}

export const systemPrompt = () => remembered("settings", {}).system?.trim() ?? "";

export async function start() {
  find("#settings-button").addEventListener("click", show);
  form.addEventListener("submit", save);
  picker.addEventListener("change", () => remember("settings", { ...remembered("settings", {}), model: picker.value }));
  await offerModels().catch(() => {}); // without a key the server tells no names yet
}

/** Fill both lists of models; a model that was chosen and is no longer served gives way to the server's own choice. */
async function offerModels() {
  const { data } = await getJson("v1/models");
  const values = remembered("settings", {});
  const chosen = data.some((model) => model.id === values.model) ? values.model : data[0].id;
  if (values.model && values.model !== chosen) remember("settings", { ...values, model: chosen });
  for (const list of [picker, form.model]) {
    list.replaceChildren(...data.map((model) => make("option", { value: model.id }, model.id)));
    list.value = chosen;
  }
  picker.hidden = data.length === 1;
  find("#model-name").hidden = data.length !== 1;
  find("#model-name").textContent = data[0].id;
  return data.find((model) => model.id === chosen);
}

async function show() {
  const values = remembered("settings", {});
  for (const input of form.elements) if (input.name) input.value = values[input.name] ?? "";
  find("#settings-error").textContent = "";
  find("#settings").showModal();
  try {
    const model = await offerModels();
    for (const name of NUMBERS) if (model.default_sampling[name] !== undefined) form[name].placeholder = model.default_sampling[name];
    form.max_completion_tokens.placeholder = model.max_model_len;
  } catch (error) {
    find("#settings-error").textContent = error.message;
  }
}

function save(event) {
  const values = Object.fromEntries(new FormData(form));
  try {
    if (values.tools.trim() && !Array.isArray(JSON.parse(values.tools))) throw new Error("they are not a list");
  } catch (error) {
    event.preventDefault();
    find("#settings-error").textContent = `The tools are no JSON list: ${error.message}`;
    return;
  }
  remember("settings", values);
  offerModels().catch(() => {}); // a wrong key is told by the next question
}
