// The settings at the side, and the key.
import * as storage from "./storage.js";

const element = (id) => document.getElementById(id);

/** Make the fields of sampling. `changed` is called with the settings whenever one of them changes. */
export function start(changed) {
  for (const field of storage.SAMPLING) element("fields").append(samplingField(field));
  const read = () => {
    const sampling = {};
    for (const input of element("fields").querySelectorAll("input")) {
      if (input.value !== "" && input.validity.valid) sampling[input.name] = input.valueAsNumber;
    }
    const settings = { ...storage.settings(), system: element("system").value, sampling };
    storage.keepSettings(settings);
    changed(settings);
  };
  element("fields").addEventListener("input", read);
  element("system").addEventListener("input", read);
  element("reset").addEventListener("click", () => {
    for (const input of element("fields").querySelectorAll("input")) input.value = "";
    read();
  });
  element("settings").addEventListener("click", (event) => event.target === element("settings") && element("settings").close());
}

function samplingField({ name, label, min, max, step, note }) {
  const box = document.createElement("div");
  const title = document.createElement("label");
  title.htmlFor = `field-${name}`;
  title.textContent = label;
  const input = Object.assign(document.createElement("input"), { type: "number", id: `field-${name}`, name, min, max, step });
  input.placeholder = name === "seed" ? "random" : "model’s own";
  input.inputMode = "decimal";
  input.setAttribute("aria-describedby", `note-${name}`);
  const small = document.createElement("small");
  small.id = `note-${name}`;
  small.textContent = note;
  box.append(title, input, small);
  return box;
}

/** Open the settings of a chat. `facts` are [name, value] of the server. */
export function open(chat, facts) {
  const { sampling } = storage.settings();
  element("system").value = chat.system;
  for (const input of element("fields").querySelectorAll("input")) input.value = sampling[input.name] ?? "";
  element("facts").replaceChildren(
    ...facts.map(([name, value]) => {
      const pair = document.createElement("div");
      pair.append(Object.assign(document.createElement("dt"), { textContent: name }), Object.assign(document.createElement("dd"), { textContent: value }));
      return pair;
    }),
  );
  element("settings").showModal();
}

/** Ask for the API key; true where one was given. */
export function askKey() {
  const dialog = element("key-dialog");
  element("key").value = storage.apiKey();
  if (!dialog.open) dialog.showModal();
  element("key").focus();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      const given = dialog.returnValue === "ok";
      dialog.returnValue = "";
      if (given) storage.keepKey(element("key").value.trim(), element("key-keep").checked);
      element("key").value = "";
      resolve(given);
    };
    // Enter in the field presses the form's first button, which is "Cancel".
    element("key-form").onkeydown = (event) => {
      if (event.key !== "Enter" || event.target !== element("key")) return;
      event.preventDefault();
      dialog.close("ok");
    };
  });
}
