// Messages as elements.
import { copyFrom } from "./clipboard.js";
import { Markdown } from "./markdown.js";

const copyOf = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);
const number = new Intl.NumberFormat("en");

/** The message of a user: plain text, as it was typed. */
export function userView(message) {
  const element = copyOf("t-user");
  element.querySelector(".bubble").textContent = message.content;
  copyFrom(element.querySelector("[data-do=copy]"), () => message.content);
  return element;
}

/** An answer, finished or growing. */
export class AnswerView {
  #message;
  #markdown;
  #frame = 0;
  #pause = 0;

  constructor(message) {
    this.#message = message;
    this.element = copyOf("t-answer");
    this.#markdown = new Markdown(this.#part(".prose"));
    copyFrom(this.#part("[data-do=copy]"), () => split(message).body);
  }

  #part(selector) {
    return this.element.querySelector(selector);
  }

  /** Show what has come so far at the next frame; rendering takes an eighth of the time at most. */
  grow(done) {
    if (this.#frame) return;
    this.#frame = 1;
    const draw = () => {
      this.#frame = 0;
      if (!this.element.classList.contains("busy")) return;
      const start = performance.now();
      this.show(true);
      this.#pause = (performance.now() - start) * 8;
      done();
    };
    setTimeout(() => requestAnimationFrame(draw), this.#pause);
  }

  show(busy) {
    const { thought, thinking, body } = split(this.#message);
    this.element.classList.toggle("busy", busy);
    this.element.classList.toggle("streaming", busy && body !== "");
    this.element.setAttribute("aria-busy", String(busy));
    this.#part(".waiting").hidden = !busy || body !== "" || thought !== "";
    const details = this.#part(".thinking");
    details.hidden = thought === "";
    details.querySelector("summary").textContent = busy && thinking ? "Thinking…" : "Thought about it";
    details.querySelector(".thought").textContent = thought;
    this.#markdown.update(body);
    if (!busy) this.#showEnd(body);
  }

  #showEnd(body) {
    const { error, hint, end, stats } = this.#message;
    this.#part(".failure").hidden = !error;
    this.#part(".failure-text").textContent = error ?? "";
    this.#part(".failure-hint").textContent = hint ?? "";
    this.#part("[data-do=copy]").hidden = body === "";
    this.#part(".tools").hidden = Boolean(error) && body === "";
    this.#part(".stats").textContent = [ended(end), ...statistics(stats)].filter(Boolean).join(" · ");
    this.#part(".stats").title = reused(stats);
  }
}

const ended = (end) => ({ length: "Cut off: the limit of tokens is reached", stopped: "Stopped" })[end] ?? "";

/** A field in which a sent message is changed; `send` is called with the new text. */
export function editor(message, send, cancel) {
  const form = copyOf("t-editor");
  const field = form.querySelector("textarea");
  field.value = message.content;
  const fit = () => fitHeight(field);
  const submit = () => field.value.trim() && send(field.value.trim());
  field.addEventListener("input", fit);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    }
    if (event.key !== "Escape") return;
    event.stopPropagation();
    cancel();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  form.querySelector("[data-do=cancel]").addEventListener("click", cancel);
  requestAnimationFrame(() => {
    fit();
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  });
  return form;
}

/** Let a field be as high as its text, where the browser does not do so itself. */
export function fitHeight(field) {
  if (CSS.supports("field-sizing", "content")) return;
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

/** What a model thought before it answered, whether it still does, and the answer. */
export function split({ content, reasoning = "" }) {
  const match = /^\s*<think>([\s\S]*?)(<\/think>\s*|$)/.exec(content);
  if (!match) return { thought: reasoning.trim(), thinking: content === "", body: content };
  return { thought: (reasoning + match[1]).trim(), thinking: match[2] === "", body: content.slice(match[0].length) };
}

export const perSecond = (speed) => `${speed < 10 ? speed.toFixed(1) : number.format(Math.round(speed))} tokens/s`;
export const tokens = (count) => (count === 1 ? "1 token" : `${number.format(count)} tokens`);

function statistics(stats) {
  if (!stats) return [];
  return [
    stats.tokens && tokens(stats.tokens),
    stats.speed && perSecond(stats.speed),
    stats.first !== null && `first after ${(stats.first / 1000).toFixed(stats.first < 9950 ? 1 : 0)} s`,
  ];
}

function reused(stats) {
  if (!stats?.prompt) return "";
  return `Prompt of ${tokens(stats.prompt)}${stats.cached ? `, ${number.format(stats.cached)} of them from the cache` : ""}`;
}
