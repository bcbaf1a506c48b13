// Light and dark: the system's, until someone chooses.
import * as storage from "./storage.js";

const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");
const button = document.getElementById("theme");
const choices = document.getElementById("themes");

const dark = () => (storage.theme() === "auto" ? system.matches : storage.theme() === "dark");

export function show() {
  const theme = storage.theme();
  if (theme === "auto") delete root.dataset.theme;
  else root.dataset.theme = theme;
  root.toggleAttribute("data-dark", dark());
  button.setAttribute("aria-pressed", String(dark()));
  for (const input of choices.querySelectorAll("input")) input.checked = input.value === theme;
}

function choose(theme) {
  storage.keepTheme(theme);
  show();
}

export function start() {
  system.addEventListener("change", show);
  button.addEventListener("click", () => choose(dark() ? "light" : "dark"));
  choices.addEventListener("change", (event) => choose(event.target.value));
  show();
}
