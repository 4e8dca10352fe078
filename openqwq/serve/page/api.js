// Talking to the server: JSON, and chat completions as they stream.
import { remembered } from "./dom.js";

function headers() {
  const key = remembered("settings", {}).key;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function failure(response) {
  try {
    return new Error((await response.json()).error.message);
  } catch {
    return new Error(`the server answered ${response.status} ${response.statusText}`);
  }
}

/** A JSON answer; throws an Error with the server's own words. */
export async function getJson(path, body, signal) {
  const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  const response = await fetch(path, { ...options, headers: headers(), signal });
  if (!response.ok) throw await failure(response);
  return response.json();
}

/** The chunks of a streamed chat completion. */
export async function* streamChat(body, signal) {
  const whole = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await fetch("v1/chat/completions", {
    method: "POST", body: JSON.stringify(whole), headers: headers(), signal,
  });
  if (!response.ok) throw await failure(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the connection ended before the answer did");
    const events = (held + value).split("\n\n");
    held = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      yield chunk;
    }
  }
}

/**
 * Read a completion to its end and report after every chunk.
 * state: {id, model, thinking, content, calls, finish, usage, warnings, thinkingSeconds, seconds}
 */
export async function readChat(body, signal, report) {
  const begin = performance.now();
  const since = () => (performance.now() - begin) / 1000;
  const state = { id: "", model: "", thinking: "", content: "", calls: [], finish: "", usage: null, warnings: [], seconds: 0 };
  for await (const chunk of streamChat(body, signal)) {
    state.id = chunk.id;
    state.model = chunk.model;
    state.usage = chunk.usage ?? state.usage;
    state.warnings = chunk.warnings ?? state.warnings;
    for (const { delta, finish_reason } of chunk.choices) {
      state.thinking += delta.reasoning_content ?? "";
      state.content += delta.content ?? "";
      for (const call of delta.tool_calls ?? []) {
        const known = (state.calls[call.index] ??= { id: call.id, name: call.function.name, arguments: "" });
        known.arguments += call.function.arguments ?? "";
      }
      state.finish = finish_reason ?? state.finish;
      if (state.thinking && state.thinkingSeconds === undefined && (state.content || state.calls.length)) {
        state.thinkingSeconds = since();
      }
    }
    state.seconds = since();
    report(state);
  }
  if (state.thinking) state.thinkingSeconds ??= state.seconds;
  report(state);
  return state;
}
