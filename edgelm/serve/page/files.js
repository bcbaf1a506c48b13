// Chats to a file and back.
import * as storage from "./storage.js";
import { toast } from "./notices.js";

const element = (id) => document.getElementById(id);

/** Save chats as a file. */
export function save(chats, name) {
  if (!chats.length) return toast("There is no chat yet.");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([storage.exported(chats)], { type: "application/json" }));
  link.download = `${name.replace(/[^\p{L}\p{N} _-]+/gu, "").trim().slice(0, 60) || "chat"}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

/** Let the user pick a file; `added` is called with its chats once they are kept. */
export function start(added) {
  const field = element("import-file");
  element("import").addEventListener("click", () => field.click());
  field.addEventListener("change", async () => {
    const [file] = field.files;
    field.value = "";
    if (!file) return;
    try {
      const chats = storage.imported(await file.text());
      if (!chats.every(storage.keep)) throw new Error("This browser has no room left for chats: delete some first.");
      added(chats);
      toast(chats.length === 1 ? "One chat imported." : `${chats.length} chats imported.`);
    } catch (error) {
      toast(error.message);
    }
  });
}
