// Small things that every view uses: making elements, remembering values, formatting.

/** An element with attributes, properties (functions become listeners) and children. Text is never read as HTML. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

export const find = (selector) => document.querySelector(selector);

/** A value kept in this browser; `fallback` where there is none or it cannot be read. */
export function remembered(key, fallback) {
  try {
    return JSON.parse(localStorage.getItem(`openqwq.${key}`)) ?? fallback;
  } catch {
    return fallback;
  }
}

/** Keep a value in this browser; false where it is full or forbidden. */
export function remember(key, value) {
  try {
    localStorage.setItem(`openqwq.${key}`, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** Whether a key in a message's box sends it; Shift-Enter breaks the line. */
export const sends = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing;

export const seconds = (value) => (value < 10 ? value.toFixed(1) : Math.round(value)) + " s";
export const count = (value, word) => `${value.toLocaleString("en")} ${word}${value === 1 ? "" : "s"}`;

/** Say something to screen readers. */
export function announce(text) {
  find("#status").textContent = text;
}

/** Offer a text as a file. */
export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
