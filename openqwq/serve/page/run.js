// The run's own report, made again while the run goes on, whenever its files have changed.
import { find, make, remembered } from "./dom.js";

const EVERY_MS = 10_000;

/** Where a reader is: how far down, and what is unfolded. */
function placeOf(page) {
  return { top: page?.scrollingElement?.scrollTop ?? 0, open: [...(page?.querySelectorAll("details") ?? [])].map((one) => one.open) };
}

function goTo(page, { top, open }) {
  page.querySelectorAll("details").forEach((one, i) => { one.open = open[i] ?? one.open; });
  page.scrollingElement.scrollTop = top;
}

export async function start() {
  const frame = make("iframe", { title: "Run report", sandbox: "allow-same-origin", hidden: true }); // without scripts
  const note = make("p", { class: "note page", role: "status" }, "Making the report…");
  find("#run").replaceChildren(note, frame);
  let shown = "";
  const key = remembered("settings", {}).key;
  const refresh = async () => {
    if (!find("#run").hidden && !document.hidden) {
      const response = await fetch("run/report", { headers: key ? { Authorization: `Bearer ${key}` } : {} }).catch(() => null);
      const text = response ? await response.text() : "The server does not answer.";
      const html = response?.ok ? text : `<p style="font: 1rem system-ui">${(response ? JSON.parse(text).error.message : text).replace(/[<&]/g, "")}</p>`;
      if (html !== shown) {
        const place = placeOf(frame.contentDocument);
        frame.addEventListener("load", () => {
          note.remove();
          frame.hidden = false;
          goTo(frame.contentDocument, place);
        }, { once: true });
        frame.srcdoc = shown = html;
      }
    }
    setTimeout(refresh, EVERY_MS);
  };
  await refresh();
}
