// What this browser keeps: chats, settings, the key. Whatever is read back is checked, for it may come from a file of someone else.
const CHAT = "edgelm.chat.";
const SETTINGS = "edgelm.settings";
const KEY = "edgelm.key";
const FORMAT = "edgelm chats";
const ROLES = new Set(["user", "assistant"]);

/** Fields of sampling: name, label, what the server takes, what it does. */
export const SAMPLING = [
  { name: "temperature", label: "Temperature", min: 0, max: 5, step: "any", note: "0 takes the likeliest token" },
  { name: "top_p", label: "Top p", min: 0, max: 1, step: "any", note: "likeliest tokens that make up this share" },
  { name: "top_k", label: "Top k", min: 0, max: 1000000, step: 1, note: "this many likeliest; 0 for all" },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: "any", note: "at least this share of the likeliest" },
  { name: "max_tokens", label: "Max tokens", min: 1, max: 1000000, step: 1, note: "length of an answer" },
  { name: "seed", label: "Seed", min: 0, max: 4294967295, step: 1, note: "the same seed, the same answer" },
];

// Where storage is blocked (private windows, policies) the page works until it is closed.
const fallback = new Map();
const memory = {
  getItem: (name) => fallback.get(name) ?? null,
  setItem: (name, value) => void fallback.set(name, value),
  removeItem: (name) => void fallback.delete(name),
  names: () => [...fallback.keys()],
};

function usable(kind) {
  try {
    const store = window[kind];
    store.setItem("edgelm.probe", "1");
    store.removeItem("edgelm.probe");
    return store;
  } catch {
    return null;
  }
}

const local = usable("localStorage") ?? memory;
const session = usable("sessionStorage") ?? memory;

/** Whether chats outlive this page. */
export const lasting = local !== memory;

const names = () => (local === memory ? memory.names() : Object.keys(local));

function readJson(name) {
  try {
    return JSON.parse(local.getItem(name));
  } catch {
    return null;
  }
}

/** Every chat, the latest first. */
export function chats() {
  return names()
    .filter((name) => name.startsWith(CHAT))
    .map((name) => checkedChat(readJson(name), name.slice(CHAT.length)))
    .filter(Boolean)
    .sort((a, b) => b.updated - a.updated);
}

/** One chat, or null. */
export const chat = (id) => checkedChat(readJson(CHAT + id), id);

/** Keep a chat. False where the browser has no room left. */
export function keep(chat) {
  try {
    local.setItem(CHAT + chat.id, JSON.stringify(chat));
    return true;
  } catch {
    return false;
  }
}

export const remove = (id) => local.removeItem(CHAT + id);

export function newChat(system) {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, model: "", system, messages: [] };
}

// crypto.randomUUID is for secure contexts alone, and a server in the local network is none.
const newId = () => [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** Settings: {system, side, sampling: {name: number}}. */
export function settings() {
  const read = readJson(SETTINGS) ?? {};
  const sampling = {};
  for (const { name, min, max } of SAMPLING) {
    const value = read.sampling?.[name];
    if (Number.isFinite(value) && value >= min && value <= max) sampling[name] = value;
  }
  return { system: text(read.system), side: read.side !== false, sampling };
}

export function keepSettings(settings) {
  try {
    local.setItem(SETTINGS, JSON.stringify(settings));
  } catch {
    // They hold until the page is closed.
  }
}

export const theme = () => (["light", "dark"].includes(local.getItem("edgelm.theme")) ? local.getItem("edgelm.theme") : "auto");

export function keepTheme(theme) {
  if (theme === "auto") local.removeItem("edgelm.theme");
  else local.setItem("edgelm.theme", theme);
}

export const apiKey = () => session.getItem(KEY) ?? local.getItem(KEY) ?? "";

export function keepKey(key, lasting) {
  session.removeItem(KEY);
  local.removeItem(KEY);
  if (key) (lasting ? local : session).setItem(KEY, key);
}

/** Chats as the text of a file. */
export const exported = (chats) => JSON.stringify({ format: FORMAT, version: 1, chats }, null, 1);

/** Chats of a file's text, with ids of their own. Throws an Error with a sentence for the user. */
export function imported(content) {
  let file;
  try {
    file = JSON.parse(content);
  } catch {
    throw new Error("That file is not JSON.");
  }
  if (file?.format !== FORMAT || !Array.isArray(file.chats)) throw new Error("That file holds no chats of edgelm.");
  if (file.version !== 1) throw new Error("That file was written by a later version of edgelm.");
  return file.chats.map((chat) => checkedChat(chat, newId())).filter((chat) => chat?.messages.length);
}

const text = (value, most = 1e6) => (typeof value === "string" ? value.slice(0, most) : "");
const time = (value) => (Number.isFinite(value) && value > 0 ? value : Date.now());
const count = (value) => (Number.isFinite(value) && value >= 0 ? value : null);

/** A chat with every field of its type and no other field, or null. */
function checkedChat(chat, id) {
  if (typeof chat !== "object" || chat === null || !Array.isArray(chat.messages)) return null;
  return {
    id,
    title: text(chat.title, 200),
    created: time(chat.created),
    updated: time(chat.updated),
    model: text(chat.model, 500),
    system: text(chat.system),
    messages: chat.messages.map(checkedMessage).filter(Boolean),
  };
}

function checkedMessage(message) {
  if (typeof message !== "object" || message === null || !ROLES.has(message.role)) return null;
  const checked = { role: message.role, content: text(message.content) };
  if (message.role === "user") return checked;
  if (message.reasoning) checked.reasoning = text(message.reasoning);
  if (["stop", "length", "stopped"].includes(message.end)) checked.end = message.end;
  if (typeof message.error === "string" && message.error) {
    checked.error = text(message.error, 2000);
    checked.hint = text(message.hint, 2000);
  }
  const stats = message.stats;
  if (typeof stats === "object" && stats !== null) {
    checked.stats = { prompt: count(stats.prompt), cached: count(stats.cached), tokens: count(stats.tokens), speed: count(stats.speed), first: count(stats.first) };
  }
  return checked;
}
