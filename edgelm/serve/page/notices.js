// What is said: to screen readers, and at the foot of the page.
const element = (id) => document.getElementById(id);
let timer = 0;

/** Say something to screen readers when they have a moment. */
export function announce(text) {
  say("announce", text);
}

/** Say something to screen readers at once. */
export function alarm(text) {
  say("alert", text);
}

// Emptied first: the same text twice would not be read twice.
function say(id, text) {
  element(id).textContent = "";
  setTimeout(() => (element(id).textContent = text), 60);
}

/** A line at the foot for some seconds, with an action where one is given: {label, run}. */
export function toast(text, action = null) {
  const button = element("toast-action");
  clearTimeout(timer);
  element("toast-text").textContent = text;
  button.hidden = !action;
  button.textContent = action?.label ?? "";
  button.onclick = () => {
    hide();
    action?.run();
  };
  element("toast").hidden = false;
  announce(action ? `${text} ${action.label} is possible.` : text);
  const hide = () => (element("toast").hidden = true);
  const later = () => (element("toast").matches(":focus-within, :hover") ? (timer = setTimeout(later, 2000)) : hide());
  timer = setTimeout(later, action ? 9000 : 5000);
}
