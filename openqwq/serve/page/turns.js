// One turn of a conversation as elements: thinking folded above the answer, calls, warnings, what can be done with it.
import { count, make, seconds, sends } from "./dom.js";
import { MarkdownView } from "./markdown.js";

const SHARE = 6; // times a drawing's own time that pass before the next one

/** An assistant's turn that can grow: `show(message, running)`. */
export class AnswerView {
  constructor(actions) {
    this.summary = make("summary");
    this.thought = make("div", { class: "text", tabindex: 0 });
    this.details = make("details", { class: "thinking", hidden: true }, this.summary, this.thought);
    this.answer = make("div", { class: "answer" });
    this.markdown = new MarkdownView(this.answer);
    this.calls = make("div");
    this.notes = make("div");
    this.facts = make("span", { class: "note facts" });
    this.tools = make("div", { class: "row tools" }, ...actions, this.facts);
    this.element = make("article", { class: "turn assistant", "aria-label": "Answer" }, this.details, this.answer, this.calls, this.notes, this.tools);
    this.shownCalls = "";
    this.shownThinking = "";
    this.waiting = 0; // the timer of the next drawing
    this.cost = 0; // milliseconds that the last one took
  }

  /** Have `draw` called soon, and so seldom that drawing takes a small part of the time, however long the text is. */
  soon(draw) {
    this.waiting ||= setTimeout(() => requestAnimationFrame(() => {
      if (!this.waiting) return;
      this.waiting = 0;
      const begin = performance.now();
      draw();
      this.cost = performance.now() - begin;
    }), SHARE * this.cost);
  }

  /** Forget the drawing that was to come. */
  settle() {
    clearTimeout(this.waiting);
    this.waiting = 0;
  }

  show(message, running, onResults) {
    this.details.hidden = !message.thinking;
    if (message.thinking) {
      const length = message.usage ? `, ${count(message.usage.completion_tokens_details.reasoning_tokens, "token")}` : "";
      const time = message.thinkingSeconds ?? message.seconds ?? 0; // the latter while it thinks, or was stopped then
      const thinks = running && message.thinkingSeconds === undefined;
      this.summary.textContent = thinks ? `Thinking… ${seconds(time)}` : `Thought for ${seconds(time)}${length}`;
      const atEnd = this.thought.scrollTop + this.thought.clientHeight >= this.thought.scrollHeight - 8;
      this.showThinking(message.thinking);
      if (atEnd) this.thought.scrollTop = this.thought.scrollHeight;
    }
    this.markdown.show(message.content);
    this.showCalls(message, running, onResults);
    const warnings = [...(message.warnings ?? []), ...(message.error ? [message.error] : [])];
    this.notes.replaceChildren(...warnings.map((text) => make("p", { class: "warning" }, text)));
    this.tools.hidden = running;
    this.facts.textContent = running ? "" : factsOf(message);
  }

  showThinking(text) {
    if (text.startsWith(this.shownThinking)) this.thought.append(text.slice(this.shownThinking.length));
    else this.thought.textContent = text;
    this.shownThinking = text;
  }

  showCalls(message, running, onResults) {
    const key = JSON.stringify([message.calls, running, message.results, Boolean(onResults)]);
    if (!message.calls?.length || key === this.shownCalls) return;
    this.shownCalls = key;
    const results = message.calls.map((call, i) => callElement(call, message.results?.[i], !running && onResults));
    const fields = results.map((element) => element.querySelector("textarea"));
    const send = () => onResults(fields.map((field) => field.value));
    const button = make("button", { type: "button", click: send }, "Send results");
    this.calls.replaceChildren(...results, ...(fields[0] ? [button] : []));
  }
}

const ENDS = { stop: "", tool_calls: "", length: "cut off" };

function factsOf({ model, usage, seconds: time, finish }) {
  const tokens = usage && count(usage.completion_tokens, "token");
  return [model, tokens, time !== undefined && seconds(time), ENDS[finish] ?? finish].filter(Boolean).join(", ");
}

function callElement(call, result, open) {
  let shown = call.arguments;
  try {
    shown = JSON.stringify(JSON.parse(call.arguments), null, 2);
  } catch { /* still growing: shown as it stands */ }
  const body = [make("strong", {}, call.name), make("pre", {}, shown)];
  if (result !== undefined) body.push(make("span", { class: "note" }, "Result"), make("pre", {}, result));
  else if (open) body.push(make("label", { class: "note" }, "Result", make("textarea", { rows: 2 })));
  return make("div", { class: "call" }, body);
}

/** A user's turn. */
export function questionElement(message, onEdit) {
  const body = make("div", { class: "body" }, message.content);
  const edit = make("button", { class: "quiet", type: "button" }, "Edit");
  const tools = make("div", { class: "row tools" }, edit);
  const element = make("article", { class: "turn user", "aria-label": "Question" }, body, tools);
  edit.addEventListener("click", () => {
    const field = make("textarea", { rows: 4, "aria-label": "Edit the question" });
    field.value = message.content;
    const ask = () => onEdit(field.value.trim());
    const leave = () => { element.replaceChildren(body, tools); edit.focus(); };
    const save = make("button", { type: "button", click: ask }, "Ask again");
    const cancel = make("button", { type: "button", class: "quiet", click: leave }, "Cancel");
    const hint = make("p", { class: "note keys" }, "Enter asks again, Shift-Enter breaks the line, Escape cancels.");
    field.addEventListener("keydown", (event) => {
      if (sends(event)) { event.preventDefault(); ask(); }
      if (event.key === "Escape") { event.stopPropagation(); leave(); }
    });
    element.replaceChildren(field, hint, make("div", { class: "row" }, save, cancel));
    field.focus();
  });
  return element;
}
