// Finds out what this server offers and opens the views that it has.
import { find, make } from "./dom.js";

const TITLES = { chat: "Chat", compare: "Compare", run: "Run", map: "How it works" };
const opened = {};

async function open(name) {
  for (const view of Object.keys(TITLES)) {
    find(`#${view}`).hidden = view !== name;
    const button = find(`#views [data-view="${view}"]`);
    if (button) button.setAttribute("aria-current", view === name ? "page" : "false");
  }
  find("#drawer-button").style.visibility = name === "chat" ? "" : "hidden";
  if (location.hash.slice(1) !== name) history.replaceState(null, "", `#${name}`);
  opened[name] ??= import(`./${name}.js`).then((module) => module.start(offered));
  await opened[name].catch((error) => find(`#${name}`).replaceChildren(make("p", { class: "warning page", role: "alert" }, error.message)));
}

const offered = await (await fetch("page/offered.json")).json();
for (const [name, title] of Object.entries(TITLES)) {
  if (!offered.views.includes(name)) continue;
  find("#views").append(make("button", { class: "quiet", "data-view": name, click: () => open(name) }, title));
}
const wanted = () => (offered.views.includes(location.hash.slice(1)) ? location.hash.slice(1) : offered.views[0]);
addEventListener("hashchange", () => open(wanted()));
await import("./settings.js").then((module) => module.start());
await open(wanted());
document.documentElement.dataset.ready = "yes";
