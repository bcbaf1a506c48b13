// The list of chats beside the page.
import * as storage from "./storage.js";

const element = (id) => document.getElementById(id);
const app = element("app");
const narrow = matchMedia("(max-width: 760px)");

/** Show the chats. `on` has open, rename, save and remove, each called with a chat. */
export function show(chats, current, on) {
  const list = element("list");
  const scrolled = list.scrollTop;
  list.replaceChildren();
  let group = "";
  let rows = null;
  for (const chat of chats) {
    const name = age(chat.updated);
    if (name !== group) {
      group = name;
      const title = document.createElement("h2");
      title.textContent = name;
      rows = document.createElement("ul");
      list.append(title, rows);
    }
    rows.append(row(chat, chat.id === current, on));
  }
  list.scrollTop = scrolled;
}

function row(chat, current, on) {
  const item = element("t-chat").content.firstElementChild.cloneNode(true);
  const title = chat.title || "New chat";
  const open = item.querySelector("[data-do=open]");
  open.textContent = title;
  open.title = title;
  item.dataset.id = chat.id;
  if (current) {
    item.setAttribute("aria-current", "true");
    open.setAttribute("aria-current", "true");
  }
  for (const [name, label] of [["rename", "Rename"], ["save", "Export"], ["delete", "Delete"]]) {
    const button = item.querySelector(`[data-do=${name}]`);
    button.setAttribute("aria-label", `${label} “${title}”`);
    button.title = label;
  }
  open.addEventListener("click", () => on.open(chat));
  open.addEventListener("dblclick", () => rename(item, chat, on));
  item.querySelector("[data-do=rename]").addEventListener("click", () => rename(item, chat, on));
  item.querySelector("[data-do=save]").addEventListener("click", () => on.save(chat));
  item.querySelector("[data-do=delete]").addEventListener("click", () => on.remove(chat));
  return item;
}

function rename(item, chat, on) {
  const field = document.createElement("input");
  field.value = chat.title;
  field.maxLength = 200;
  field.setAttribute("aria-label", "Name of the chat");
  let ended = false;
  const end = (keep) => {
    if (ended) return;
    ended = true;
    on.rename(chat, keep && field.value.trim() ? field.value.trim() : chat.title);
    element("list").querySelector(`[data-id="${chat.id}"] [data-do=open]`)?.focus();
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter") end(true);
    if (event.key === "Escape") end(false);
    event.stopPropagation();
  });
  field.addEventListener("blur", () => end(true));
  item.replaceChildren(field);
  field.focus();
  field.select();
}

function age(when) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  const day = 86400000;
  if (when >= midnight) return "Today";
  if (when >= midnight - day) return "Yesterday";
  return when >= midnight - 7 * day ? "Last 7 days" : "Before";
}

export const isOpen = () => app.classList.contains("with-side");

/** Open or close the list; on a phone it lies over the page, and takes the focus. */
export function toggle(open = !isOpen(), focus = true) {
  app.classList.toggle("with-side", open);
  element("side").inert = !open;
  element("scrim").hidden = !(open && narrow.matches);
  element("side-open").setAttribute("aria-expanded", String(open));
  if (!narrow.matches) storage.keepSettings({ ...storage.settings(), side: open });
  if (focus) element(open ? "side-close" : "side-open").focus({ preventScroll: true });
}

/** Close the list where it lies over the page; whether it did. */
export function leave() {
  if (!narrow.matches || !isOpen()) return false;
  toggle(false, false);
  return true;
}

export function start() {
  element("side-open").addEventListener("click", () => toggle());
  element("side-close").addEventListener("click", () => toggle(false));
  element("scrim").addEventListener("click", () => toggle(false));
  narrow.addEventListener("change", () => toggle(!narrow.matches && storage.settings().side, false));
  app.classList.add("starting");
  toggle(!narrow.matches && storage.settings().side, false);
  requestAnimationFrame(() => requestAnimationFrame(() => app.classList.remove("starting")));
}
