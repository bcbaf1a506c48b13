// Copying, also where the page is no secure context (a server in the local network), which has no navigator.clipboard.
import { announce } from "./notices.js";

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = document.createElement("textarea");
    field.value = text;
    field.className = "sr";
    const focused = document.activeElement;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    focused?.focus?.({ preventScroll: true });
    return done;
  }
}

/** Let a button copy what `read` gives, and say so for a moment. */
export function copyFrom(button, read) {
  button.addEventListener("click", async () => {
    const done = await copy(read());
    announce(done ? "Copied" : "Could not copy");
    const icon = button.querySelector("use");
    const before = icon ? icon.getAttribute("href") : button.textContent;
    const show = (value) => (icon ? icon.setAttribute("href", value) : (button.textContent = value));
    if (before === "#i-done" || before === "Copied") return;
    show(icon ? "#i-done" : done ? "Copied" : "Could not copy");
    setTimeout(() => show(before), 1400);
  });
}
