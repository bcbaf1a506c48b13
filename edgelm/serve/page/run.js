// One answer under way.
import * as api from "./api.js";
import * as storage from "./storage.js";
import { split } from "./view.js";

const SAVE_EVERY = 2000; // ms; what a crash of the browser may lose

export class Run {
  #controller = new AbortController();
  #sampling;
  #on;
  #started = 0;
  #first = null;
  #pieces = 0;
  #saved = 0;
  #dropped = false;

  /**
   * @param chat whose last message is to be answered; `message` is to be appended to it.
   * @param sampling options of the request.
   * @param on grown and ended, each called with this run.
   */
  constructor(chat, sampling, on) {
    this.chat = chat;
    this.message = { role: "assistant", content: "" };
    this.failure = null;
    this.#sampling = sampling;
    this.#on = on;
  }

  async start() {
    const body = { model: this.chat.model, messages: history(this.chat, this.message), ...this.#sampling };
    this.#started = performance.now();
    try {
      const result = await api.chat(body, this.#controller.signal, (delta) => this.#take(delta));
      this.message.end = result.finish === "length" ? "length" : "stop";
      this.#count(result);
    } catch (error) {
      this.#fail(error);
    }
    if (!this.#dropped) this.#on.ended(this);
  }

  #take({ content, reasoning }) {
    this.#first ??= performance.now() - this.#started;
    this.#pieces += 1;
    this.message.content += content;
    if (reasoning) this.message.reasoning = (this.message.reasoning ?? "") + reasoning;
    if (performance.now() - this.#saved > SAVE_EVERY) {
      this.#saved = performance.now();
      this.#keepPart();
    }
    this.#on.grown(this);
  }

  #count({ usage, timings }) {
    this.message.stats = {
      prompt: usage?.prompt_tokens ?? timings?.prompt_tokens ?? null,
      cached: usage?.prompt_tokens_details?.cached_tokens ?? timings?.cached_tokens ?? null,
      tokens: usage?.completion_tokens ?? timings?.predicted_tokens ?? null,
      speed: timings?.tokens_per_second || this.speed(),
      first: this.#first,
    };
  }

  #fail(error) {
    if (error.name === "AbortError") {
      this.message.end = "stopped";
      this.message.stats = { prompt: null, cached: null, tokens: this.#pieces || null, speed: this.speed(), first: this.#first };
      return;
    }
    this.failure = error;
    const known = error instanceof api.ApiError;
    this.message.error = known ? error.message : "The page has failed.";
    this.message.hint = known ? error.hint : String(error.message);
  }

  /** Tokens per second so far, taking a piece of text as a token, or null. */
  speed() {
    const seconds = (performance.now() - this.#started - this.#first) / 1000;
    return this.#pieces > 2 && seconds > 0 ? (this.#pieces - 1) / seconds : null;
  }

  /** Tokens of the context in use, or null before the first piece of text. */
  used() {
    const before = this.chat.messages.findLast((message) => message.stats?.prompt)?.stats;
    return before ? before.prompt + (before.tokens ?? 0) + this.#pieces : null;
  }

  stop() {
    this.#controller.abort();
  }

  /** End without a word to the page. */
  drop() {
    this.#dropped = true;
    this.#controller.abort();
  }

  /** The page ends: keep what has come, and nothing of how the connection breaks. */
  leave() {
    this.#keepPart();
    this.drop();
  }

  /** Keep what has come so far as an answer that was stopped, for a page that may not live to its end. */
  #keepPart() {
    const messages = this.chat.messages.map((message) => (message === this.message ? { ...message, end: "stopped" } : message));
    storage.keep({ ...this.chat, messages });
  }
}

/** Messages for the server: without thoughts and failures, and of taking turns, as chat templates want them. */
function history(chat, until) {
  const messages = chat.system.trim() ? [{ role: "system", content: chat.system.trim() }] : [];
  for (const message of chat.messages) {
    if (message === until) break;
    const content = message.role === "user" ? message.content : split(message).body;
    if (!content) continue;
    const last = messages.at(-1);
    if (last?.role === message.role) last.content += `\n\n${content}`;
    else messages.push({ role: message.role, content });
  }
  return messages;
}
