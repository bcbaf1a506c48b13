// The server: what it has, and an answer as it is generated. Paths are relative, so that a proxy may serve the page under any folder.
import * as storage from "./storage.js";

const HOME = new URL(".", location.href);

/** What went wrong, in a sentence, and what to do about it. `kind` is "key" where the server asks for an API key. */
export class ApiError extends Error {
  constructor(message, hint = "", kind = "") {
    super(message);
    this.hint = hint;
    this.kind = kind;
  }
}

/** The server's models: [{id, context}], the context in tokens, or null where the server does not say. */
export async function models() {
  const answer = await (await request("v1/models")).json();
  return (answer.data ?? []).map(({ id, context, embedding }) => ({ id: String(id), context: context > 0 ? context : null, embedding })).filter((model) => !model.embedding);
}

/**
 * Stream an answer.
 * @param body of /v1/chat/completions.
 * @param signal ends it; the promise then rejects with an AbortError.
 * @param onDelta called with ({content, reasoning}) for each piece of text.
 * @returns {{finish: string, usage: object|null, timings: object|null}}
 */
export async function chat(body, signal, onDelta) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  const result = { finish: "", usage: null, timings: null };
  for await (const event of events(response.body)) {
    if (event.error) throw explained(event.error.code ?? 500, event.error);
    result.usage = event.usage ?? result.usage;
    result.timings = event.timings ?? result.timings;
    const choice = event.choices?.[0];
    if (!choice) continue;
    result.finish = choice.finish_reason ?? result.finish;
    const { content, reasoning_content: reasoning } = choice.delta ?? {};
    if (content || reasoning) onDelta({ content: String(content ?? ""), reasoning: String(reasoning ?? "") });
  }
  if (!result.finish) throw new ApiError("The connection ended before the answer did.", "The server may have been stopped. Try again.");
  return result;
}

/** Data of server-sent events, parsed, up to "[DONE]". */
async function* events(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = done ? "" : lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        yield parsed(data);
      }
      if (done) return;
    }
  } catch (error) {
    if (error instanceof TypeError) throw new ApiError("The connection was lost.", "Is the server still running?");
    throw error;
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ApiError("The server sent something that is not JSON.", "Is this an edgelm server, and no proxy in between?");
  }
}

async function request(path, options = {}) {
  const key = storage.apiKey();
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(new URL(path, HOME), { cache: "no-store", credentials: "same-origin", ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer.", "Is edgelm serve still running, and is this device connected to it?");
  }
  if (response.ok) return response;
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // No JSON: the status says enough.
  }
  throw explained(response.status, error, response.headers.get("Retry-After"));
}

function explained(status, error, wait = null) {
  const said = typeof error === "string" ? error : String(error.message ?? "");
  const hint = typeof error.hint === "string" ? error.hint : "";
  if (status === 401 || status === 403) return new ApiError("The server asks for an API key.", "It is the one that edgelm serve was started with.", "key");
  if (status === 404) return new ApiError(said || "The server does not have this model.", hint || "Choose another one at the top.");
  if (status === 413) return new ApiError(said || "This chat is too long for the server.", hint || "Start a new chat, or shorten the message.");
  if (status === 429 || status === 503) {
    return new ApiError(said || "The server is busy.", hint || (wait ? `Try again in ${wait} seconds.` : "Try again in a moment."));
  }
  return new ApiError(said || `The server failed (${status}).`, hint || (status >= 500 ? "Its log says more." : ""));
}
