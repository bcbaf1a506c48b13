// The page: which chat is open, and what a click or a key does.
import * as api from "./api.js";
import * as appearance from "./appearance.js";
import * as files from "./files.js";
import { ideasFor } from "./ideas.js";
import * as list from "./list.js";
import { alarm, announce, toast } from "./notices.js";
import { Run } from "./run.js";
import * as settings from "./settings.js";
import * as storage from "./storage.js";
import { AnswerView, editor, fitHeight, perSecond, tokens, userView } from "./view.js";

const element = (id) => document.getElementById(id);
const input = element("input");
const scroll = element("scroll");
const runs = new Map(); // chat id → the Run under way in it
const page = { chat: null, models: [], model: "", context: null, views: [], follow: true };

const running = () => runs.get(page.chat.id);

// ── Chats ──────────────────────────────────────────────────────────────────────────────────────────────────────────

function openChat(chat) {
  page.chat = runs.get(chat.id)?.chat ?? chat;
  history.replaceState(null, "", chat.messages.length ? `#${chat.id}` : location.pathname + location.search);
  if (modelNamed(page.chat.model) && page.chat.model !== page.model) chooseModel(page.chat.model);
  page.follow = true;
  showMessages();
  showList();
  list.leave();
}

function newChat() {
  openChat(storage.newChat(storage.settings().system));
  input.focus();
}

function keep(chat) {
  if (!storage.keep(chat)) toast("This browser has no room left: export and delete some chats.");
  showList();
}

function showList() {
  list.show(storage.chats(), page.chat.id, {
    open: (chat) => {
      openChat(chat);
      input.focus();
    },
    rename: (chat, title) => {
      const renamed = current(chat);
      renamed.title = title;
      keep(renamed);
      if (renamed === page.chat) showTitle();
    },
    save: (chat) => files.save([current(chat)], chat.title),
    remove: removeChat,
  });
}

// The list reads chats from storage; one that is open or being answered is newer here.
const current = (chat) => (page.chat.id === chat.id ? page.chat : (runs.get(chat.id)?.chat ?? chat));

function removeChat(chat) {
  const gone = current(chat);
  runs.get(gone.id)?.drop();
  runs.delete(gone.id);
  storage.remove(gone.id);
  if (gone.id === page.chat.id) newChat();
  else showList();
  const run = () => {
    keep(gone);
    openChat(gone);
  };
  toast("Chat deleted.", { label: "Undo", run });
}

// ── Messages ───────────────────────────────────────────────────────────────────────────────────────────────────────

function showMessages() {
  page.views = page.chat.messages.map(viewOf);
  element("messages").replaceChildren(...page.views.map((view) => view.element));
  const run = running();
  if (run) run.view = page.views.at(-1);
  showState();
  showTitle();
  scroll.scrollTop = scroll.scrollHeight;
}

function viewOf(message) {
  if (message.role === "user") return { element: userView(message) };
  const view = new AnswerView(message);
  view.show(running()?.message === message);
  return view;
}

function showTitle() {
  element("chat-title").textContent = page.chat.title || "Chat";
  document.title = page.chat.title ? `${page.chat.title} · edgelm` : "edgelm";
}

/** Everything that depends on whether an answer is under way, and on how long the chat is. */
function showState() {
  const run = running();
  const empty = !page.chat.messages.length;
  element("empty").hidden = !empty;
  element("chat-title").hidden = empty;
  element("status-note").hidden = empty;
  element("stop").hidden = !run;
  element("send").hidden = Boolean(run);
  element("send").disabled = !page.model || !input.value.trim();
  const stats = page.chat.messages.findLast((message) => message.stats?.prompt)?.stats;
  const speed = run ? run.speed() : page.chat.messages.at(-1)?.stats?.speed;
  element("speed").textContent = speed ? perSecond(speed) : "";
  showContext(run?.used() ?? (stats ? (stats.prompt ?? 0) + (stats.tokens ?? 0) : 0));
}

function showContext(used) {
  element("context").hidden = !page.context || !used;
  if (!page.context) return;
  const share = Math.min(1, used / page.context);
  element("context-text").textContent = `${used.toLocaleString("en")} of ${tokens(page.context)}`;
  element("meter").setAttribute("aria-valuemax", page.context);
  element("meter").setAttribute("aria-valuenow", Math.min(used, page.context));
  element("meter").setAttribute("aria-valuetext", element("context-text").textContent);
  element("meter").classList.toggle("full", share > 0.9);
  element("meter-fill").style.width = `${share * 100}%`;
}

// ── Asking ─────────────────────────────────────────────────────────────────────────────────────────────────────────

function ask(text) {
  if (!page.model || running() || !text) return;
  const { chat } = page;
  if (!chat.messages.length) chat.title = titleOf(text);
  append({ role: "user", content: text });
  answer();
}

function append(message) {
  page.chat.messages.push(message);
  const view = viewOf(message);
  page.views.push(view);
  element("messages").append(view.element);
  return view;
}

function answer() {
  const { chat } = page;
  chat.model = page.model;
  chat.updated = Date.now();
  const run = new Run(chat, storage.settings().sampling, { grown, ended });
  runs.set(chat.id, run);
  run.view = append(run.message);
  keep(chat);
  history.replaceState(null, "", `#${chat.id}`);
  page.follow = true;
  showState();
  showTitle();
  scrollDown();
  announce("Answering");
  run.start();
}

function grown(run) {
  if (run.chat !== page.chat) return;
  run.view.grow(() => {
    showState();
    scrollDown();
  });
}

async function ended(run) {
  const { chat, message } = run;
  if (runs.get(chat.id) !== run) return;
  runs.delete(chat.id);
  keep(chat);
  if (chat === page.chat) {
    run.view.show(false);
    showState();
    scrollDown();
  }
  if (message.error) alarm(`${message.error} ${message.hint}`);
  else announce(message.end === "stopped" ? "Stopped" : `Answer: ${run.view.element.querySelector(".prose").textContent.trim().slice(0, 1500)}`);
  if (run.failure?.kind === "key" && (await settings.askKey())) {
    await connect();
    if (chat === page.chat && chat.messages.at(-1) === message) again(chat.messages.length - 1);
  }
}

/** Answer anew: the answer at `index` and what follows it are replaced. */
function again(index) {
  if (running() || !page.model) return;
  truncate(index);
  answer();
}

function truncate(length) {
  page.chat.messages.length = length;
  for (const view of page.views.splice(length)) view.element.remove();
}

function edit(index) {
  if (running()) return;
  const view = page.views[index];
  const message = page.chat.messages[index];
  const parts = [...view.element.children];
  const close = () => {
    view.element.replaceChildren(...parts);
    view.element.querySelector("[data-do=edit]").focus();
  };
  const send = (text) => {
    truncate(index);
    if (index === 0) page.chat.title = titleOf(text);
    ask(text);
    input.focus();
  };
  view.element.replaceChildren(editor(message, send, close));
}

function titleOf(text) {
  const line = text.split("\n", 1)[0].replace(/\s+/g, " ").trim();
  return line.length <= 60 ? line : `${line.slice(0, 60).replace(/\s\S*$/, "")}…`;
}

// ── The server ─────────────────────────────────────────────────────────────────────────────────────────────────────

async function connect() {
  try {
    page.models = await api.models();
    if (!page.models.length) throw new api.ApiError("The server has no model.", "Start edgelm serve with a bundle.");
    const select = element("model");
    select.replaceChildren(...page.models.map(({ id }) => new Option(id, id)));
    select.disabled = page.models.length < 2;
    chooseModel((modelNamed(page.chat.model) ?? page.models[0]).id);
  } catch (error) {
    await notConnected(error);
  }
}

async function notConnected(error) {
  if (error.kind === "key" && (await settings.askKey())) return connect();
  page.model = "";
  element("model").replaceChildren(new Option("Not connected"));
  element("model").disabled = true;
  showState();
  toast([error.message, error.hint].filter(Boolean).join(" "), { label: "Try again", run: connect });
}

const modelNamed = (id) => page.models.find((model) => model.id === id);

function chooseModel(id) {
  page.model = id;
  page.context = modelNamed(id).context;
  element("model").value = id;
  element("ideas").replaceChildren(...ideasFor(id).map(ideaView));
  showState();
}

function ideaView({ title, rest, text }) {
  const item = document.createElement("li");
  const button = Object.assign(document.createElement("button"), { type: "button" });
  button.append(Object.assign(document.createElement("b"), { textContent: title }), Object.assign(document.createElement("span"), { textContent: rest }));
  button.addEventListener("click", () => {
    ask(text);
    input.focus();
  });
  item.append(button);
  return item;
}

// ── Scrolling: the page follows an answer until the user scrolls up ──────────────────────────────────────────────────

const distance = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight;

function scrollDown() {
  if (page.follow) scroll.scrollTop = scroll.scrollHeight;
  element("jump").hidden = page.follow || distance() < 60;
}

function scrolled() {
  page.follow = distance() < 60;
  element("jump").hidden = page.follow;
}

// ── Keys and clicks ────────────────────────────────────────────────────────────────────────────────────────────────

function send() {
  const text = input.value.trim();
  if (!text || running() || !page.model) return;
  input.value = "";
  fitHeight(input);
  ask(text);
}

function typed(event) {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
  if (event.key !== "ArrowUp" || input.value) return;
  const last = page.chat.messages.findLastIndex((message) => message.role === "user");
  if (last < 0 || running()) return;
  event.preventDefault();
  edit(last);
}

function shortcut(event) {
  if (document.querySelector("dialog[open]") || event.isComposing) return;
  const control = event.ctrlKey || event.metaKey;
  if (event.key === "Escape") {
    if (list.leave()) element("side-open").focus();
    else if (running()) running().stop();
    else input.focus();
  } else if (control && event.shiftKey && event.code === "KeyO") newChat();
  else if (control && event.shiftKey && event.code === "KeyL") list.toggle();
  else if (control && !event.shiftKey && event.key === ",") openSettings();
  else return;
  event.preventDefault();
}

function openSettings() {
  const context = page.context ? tokens(page.context) : "not said";
  settings.open(page.chat, [["Model", page.model || "none"], ["Context", context], ["Address", location.host]]);
}

function clicked(event) {
  const action = event.target.closest("[data-do]")?.dataset.do;
  const index = page.views.findIndex((view) => view.element.contains(event.target));
  if (index < 0) return;
  if (action === "again") again(index);
  if (action === "edit") edit(index);
}

function listen() {
  element("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  input.addEventListener("keydown", typed);
  input.addEventListener("input", () => {
    fitHeight(input);
    element("send").disabled = !page.model || !input.value.trim();
  });
  element("stop").addEventListener("click", () => {
    running()?.stop();
    input.focus();
  });
  element("messages").addEventListener("click", clicked);
  element("new").addEventListener("click", newChat);
  element("open-settings").addEventListener("click", openSettings);
  element("change-key").addEventListener("click", async () => (await settings.askKey()) && connect());
  element("export").addEventListener("click", () => files.save(storage.chats(), "edgelm chats"));
  element("model").addEventListener("change", (event) => chooseModel(event.target.value));
  element("jump").addEventListener("click", () => {
    page.follow = true;
    scrollDown();
  });
  scroll.addEventListener("scroll", scrolled, { passive: true });
  addEventListener("keydown", shortcut);
  addEventListener("online", () => page.model || connect());
  addEventListener("pagehide", () => runs.forEach((run) => run.leave()));
  addEventListener("storage", changedElsewhere);
}

/** Another tab has written: take it over, unless an answer is under way here. */
function changedElsewhere(event) {
  if (event.key?.startsWith("edgelm.theme")) return appearance.show();
  const stored = storage.chat(page.chat.id);
  if (stored && !running() && stored.updated !== page.chat.updated) openChat(stored);
  else showList();
}

function start() {
  appearance.start();
  list.start();
  settings.start(({ system }) => {
    page.chat.system = system;
    if (page.chat.messages.length) keep(page.chat);
  });
  files.start((chats) => chats.length && openChat(chats[0]));
  listen();
  openChat(storage.chat(location.hash.slice(1)) ?? storage.newChat(storage.settings().system));
  if (!storage.lasting) toast("This browser keeps nothing for this page: chats end with it.");
  connect();
  if (!matchMedia("(pointer: coarse)").matches) input.focus(); // a keyboard on the screen would cover the page
}

start();
