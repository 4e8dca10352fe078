// The chat: conversations in this browser, answers as they stream.
import { getJson, readChat } from "./api.js";
import { announce, count, download, find, make, remember, remembered, seconds, sends } from "./dom.js";
import { requestFields, systemPrompt } from "./settings.js";
import { AnswerView, questionElement } from "./turns.js";

const EXAMPLES = ["Solve for x: 3*x + 4 = 19", "How many primes are there below 30?", "Write a Python function that reverses a list."];
const KEPT = 200; // conversations; older ones are dropped so that the browser's store does not fill up
const main = find("#main");
const prompt = find("#prompt");
let conversations = remembered("conversations", []);
let current = null;
let running = null; // {controller, id} of the answer that streams
let closesThinking = false;

export function start(offered) {
  closesThinking = offered.close_thinking;
  find("#composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  prompt.addEventListener("keydown", (event) => {
    if (sends(event)) { event.preventDefault(); send(); }
  });
  prompt.addEventListener("input", fitPrompt);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !find("#settings").open) stop(); });
  find("#stop").addEventListener("click", stop);
  find("#new-chat").addEventListener("click", () => select(null));
  find("#export-json").addEventListener("click", () => download(`${fileName()}.json`, "application/json", JSON.stringify(current ?? [], null, 2)));
  find("#export-markdown").addEventListener("click", () => download(`${fileName()}.md`, "text/markdown", asMarkdown(current)));
  find("#drawer-button").addEventListener("click", () => openDrawer(!find("#drawer").classList.contains("open")));
  select(conversations[0]?.id ?? null);
  prompt.focus({ preventScroll: true });
}

function openDrawer(open) {
  find("#drawer").classList.toggle("open", open);
  find("#drawer-button").setAttribute("aria-expanded", String(open));
}

function fitPrompt() {
  prompt.style.height = "auto";
  prompt.style.height = `${Math.min(prompt.scrollHeight + 2, innerHeight * 0.4)}px`;
}

const fileName = () => (current?.title ?? "conversation").replace(/[^\w-]+/g, "-").slice(0, 40) || "conversation";

function asMarkdown(conversation) {
  const turns = (conversation?.messages ?? []).map((m) => {
    if (m.role === "user") return `## Question\n\n${m.content}`;
    const thought = m.thinking ? `<details><summary>Thought for ${seconds(m.thinkingSeconds ?? 0)}</summary>\n\n${m.thinking}\n\n</details>\n\n` : "";
    const calls = (m.calls ?? []).map((c, i) => `\n\n- call ${c.name}(${c.arguments})${m.results ? ` = ${m.results[i]}` : ""}`).join("");
    return `## Answer${m.model ? ` (${m.model})` : ""}\n\n${thought}${m.content}${calls}`;
  });
  return `# ${conversation?.title ?? "Conversation"}\n\n${turns.join("\n\n")}\n`;
}

function keep() {
  if (current && !conversations.includes(current)) conversations.unshift(current);
  conversations = conversations.slice(0, KEPT);
  while (!remember("conversations", conversations) && conversations.length > 1) conversations.pop();
  listConversations();
}

function listConversations() {
  find("#conversations").replaceChildren(...conversations.map((one) =>
    make("li", {},
      make("button", { class: "name", "aria-current": String(one === current), click: () => { select(one.id); openDrawer(false); } }, one.title),
      make("button", { class: "drop", "aria-label": `Delete ${one.title}`, click: () => drop(one) }, "×"))));
}

function drop(one) {
  if (one === current) stop();
  conversations = conversations.filter((other) => other !== one);
  if (one === current) current = null;
  keep();
  if (!current) select(null);
}

function select(id) {
  stop();
  current = conversations.find((one) => one.id === id) ?? null;
  listConversations();
  redraw();
  openDrawer(false);
}

function redraw() {
  if (!current?.messages.length) {
    const offer = (text) => make("button", { type: "button", click: () => { prompt.value = text; send(); } }, text);
    main.replaceChildren(make("div", { class: "empty" }, make("h1", {}, "What shall we think about?"), ...EXAMPLES.map(offer)));
    return;
  }
  main.replaceChildren(...current.messages.map((message, i) => {
    if (message.role === "user") return questionElement(message, (text) => text && ask([...current.messages.slice(0, i), { role: "user", content: text }]));
    const view = answerView(i);
    view.show(message, false, resultsOf(i));
    return view.element;
  }));
  main.scrollTop = main.scrollHeight;
}

function answerView(i) {
  return new AnswerView([
    make("button", { class: "quiet", type: "button", click: () => ask(current.messages.slice(0, i)) }, "Regenerate"),
    make("button", { class: "quiet", type: "button", click: () => navigator.clipboard?.writeText(current.messages[i].content) }, "Copy"),
  ]);
}

const resultsOf = (i) => (i === current.messages.length - 1 ? (results) => {
  current.messages[i].results = results;
  ask(current.messages);
} : null);

function send() {
  const text = prompt.value.trim();
  if (!text || running) return;
  prompt.value = "";
  fitPrompt();
  if (!current) current = { id: crypto.randomUUID?.() ?? String(Math.random()), title: text.slice(0, 60), messages: [] };
  ask([...current.messages, { role: "user", content: text }]);
}

/** The conversation as the API wants it; thinking is left out, as the template would do. */
function requestMessages(messages) {
  const rows = systemPrompt() ? [{ role: "system", content: systemPrompt() }] : [];
  for (const message of messages) {
    if (message.role === "user") { rows.push({ role: "user", content: message.content }); continue; }
    const calls = (message.calls ?? []).map((c) => ({ id: c.id, type: "function", function: { name: c.name, arguments: c.arguments } }));
    rows.push({ role: "assistant", content: message.content, ...(calls.length && message.results ? { tool_calls: calls } : {}) });
    (message.results ?? []).forEach((content, i) => rows.push({ role: "tool", tool_call_id: calls[i].id, content }));
  }
  return rows;
}

async function ask(messages) {
  stop();
  const conversation = current;
  const message = { role: "assistant", content: "", thinking: "", warnings: [] };
  conversation.messages = [...messages, message];
  keep();
  redraw();
  const view = answerView(conversation.messages.length - 1);
  main.lastChild.replaceWith(view.element);
  const mine = { controller: new AbortController(), message };
  setRunning(mine, view);
  const draw = () => {
    const atEnd = main.scrollTop + main.clientHeight >= main.scrollHeight - 60;
    view.show(message, running === mine);
    find("#close-thinking")?.toggleAttribute("hidden", Boolean(message.content));
    if (atEnd) main.scrollTop = main.scrollHeight;
  };
  const report = (state) => {
    Object.assign(message, state);
    mine.id = state.id;
    view.soon(draw);
  };
  try {
    await readChat({ ...requestFields(), messages: requestMessages(messages) }, mine.controller.signal, report);
    announce(`Answer complete: ${count(message.usage?.completion_tokens ?? 0, "token")}.`);
  } catch (error) {
    if (error.name === "AbortError") message.finish = "stopped";
    else { message.error = error.message; announce(`Error: ${error.message}`); }
  }
  view.settle();
  if (running === mine) setRunning(null, view);
  keep();
  if (current === conversation && main.contains(view.element)) {
    draw();
    view.show(message, false, message.calls?.length ? resultsOf(conversation.messages.length - 1) : null);
  }
}

function setRunning(mine, view) {
  running = mine;
  find("#stop").hidden = !mine;
  find("#send").hidden = Boolean(mine);
  find("#close-thinking")?.remove();
  if (mine && closesThinking) {
    view.details.after(make("button", { id: "close-thinking", class: "quiet", type: "button", click: closeThinking }, "Stop thinking, answer now"));
  }
}

async function closeThinking() {
  if (running?.id) await getJson(`v1/chat/completions/${running.id}/close_thinking`, {}).catch((error) => announce(error.message));
}

function stop() {
  running?.controller.abort();
  if (running) setRunning(null);
}
