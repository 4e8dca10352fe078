// The same held-out problem put to two checkpoints, streamed side by side, each judged by the run's own verifier.
import { getJson, readChat } from "./api.js";
import { count, find, make, seconds } from "./dom.js";
import { AnswerView } from "./turns.js";

let controller = null;
let problem = null;

export async function start() {
  const root = find("#compare");
  const offered = await getJson("experiment");
  const family = make("select", { "aria-label": "Family" }, make("option", { value: "" }, "any family"), offered.families.map((name) => make("option", { value: name }, name)));
  const field = make("textarea", { rows: 5, "aria-label": "Problem", input: () => { problem = null; } });
  const tokens = make("input", { type: "number", min: 1, value: offered.max_tokens, "aria-label": "Longest answer in tokens", style: "width: 7rem" });
  const another = make("button", { class: "quiet", type: "button" }, "Try an example");
  const run = make("button", { type: "button", title: "Ctrl-Enter or Cmd-Enter" }, "Run both");
  const note = make("p", { class: "note", role: "status" });
  const sides = offered.models.map((name) => side(name));
  root.replaceChildren(make("div", { class: "page" },
    make("h1", {}, `${offered.models.join(" against ")}`),
    make("p", { class: "note" }, "Held-out problems that no stage trained on. A problem of your own has no gold answer and is not judged."),
    make("div", { class: "problem" }, field),
    make("div", { class: "row" }, run, another, family, make("label", { class: "row note" }, "at most", tokens, "tokens")), note,
    make("div", { class: "pair" }, sides.map((one) => one.element))));

  const draw = async () => {
    try {
      problem = await getJson("experiment/problem", { family: family.value || null });
      field.value = problem.prompt;
      note.textContent = `${problem.family}, held-out problem ${problem.id}`;
    } catch (error) {
      note.textContent = error.message;
    }
  };
  const both = () => {
    if (!field.value.trim()) return; // the first problem is still being drawn
    controller?.abort();
    controller = new AbortController();
    const asked = problem;
    const messages = asked?.messages ?? [{ role: "user", content: field.value }];
    const seed = Math.floor(Math.random() * 2 ** 31);
    for (const one of sides) one.run({ messages, seed, max_completion_tokens: Number(tokens.value) }, asked, controller.signal);
  };
  another.addEventListener("click", draw);
  run.addEventListener("click", both);
  root.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); both(); }
  });
  note.textContent = "Drawing a problem…";
  draw();
}

function side(name) {
  const verdict = make("p", { class: "verdict", role: "status" });
  const facts = make("p", { class: "note" });
  const body = make("div");
  const element = make("article", { "data-model": name }, make("h2", {}, name), verdict, facts, body);

  async function run(fields, asked, signal) {
    const view = new AnswerView([]);
    const message = { content: "", thinking: "" };
    body.replaceChildren(view.element);
    verdict.textContent = facts.textContent = "";
    verdict.className = "verdict";
    view.details.open = true;
    try {
      const state = await readChat({ model: name, ...fields }, signal, (grown) => {
        Object.assign(message, grown);
        view.soon(() => view.show(message, true));
      });
      view.settle();
      view.show(message, true);
      facts.textContent = `${count(state.usage.completion_tokens, "token")}, ${seconds(state.seconds)}`;
      if (!asked) return;
      const judged = await getJson("experiment/judge", { id: asked.id, family: asked.family, model: name, completion_id: state.id, finish_reason: state.finish }, signal);
      const [sign, style] = { correct: ["✓", "good"], wrong: ["✗", "bad"] }[judged.status] ?? ["?", ""];
      verdict.textContent = `${sign} ${judged.status}${judged.reason ? `: ${judged.reason}` : ""}`;
      verdict.className = `verdict ${style}`;
    } catch (error) {
      if (error.name !== "AbortError") verdict.textContent = error.message;
    }
  }
  return { element, run };
}
