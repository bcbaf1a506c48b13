// A model's markdown as elements that can do nothing: HTML in it is shown as text, pictures are named and never loaded.
import { Marked } from "./vendor/marked.js";
import DOMPurify from "./vendor/purify.js";
import { copyFrom } from "./clipboard.js";
import { highlight } from "./highlight.js";

const TAGS = "p br hr h1 h2 h3 h4 h5 h6 strong em del code pre blockquote ul ol li table thead tbody tr th td a span".split(" ");
const CLEAN = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ["href", "start", "align", "class"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ADD_URI_SAFE_ATTR: ["start", "align"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const escaped = (text) => text.replace(/[&<>"']/g, (character) => ENTITIES[character]);

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escaped(text),
    image: ({ text, href }) => `<span class="picture">[picture: ${escaped(text || href)}]</span>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

/** Markdown in an element, which grows: blocks that are the same as before stay, and with them what is selected in them. */
export class Markdown {
  #root;
  #blocks = [];

  constructor(root) {
    this.#root = root;
  }

  update(text) {
    let tokens;
    try {
      tokens = marked.lexer(text).filter((token) => token.type !== "space" && token.type !== "def");
    } catch {
      tokens = [{ raw: text }]; // nested deeper than the stack: as plain text
    }
    let same = 0;
    while (same < Math.min(tokens.length, this.#blocks.length) && tokens[same].raw === this.#blocks[same].raw) same += 1;
    for (const block of this.#blocks.splice(same)) for (const node of block.nodes) node.remove();
    for (const token of tokens.slice(same)) {
      const nodes = rendered(token);
      this.#root.append(...nodes);
      this.#blocks.push({ raw: token.raw, nodes });
    }
  }
}

function rendered(token) {
  let fragment;
  try {
    fragment = DOMPurify.sanitize(marked.parser([token]), CLEAN);
  } catch {
    const plain = document.createElement("p");
    plain.textContent = token.raw;
    return [plain];
  }
  fragment.querySelectorAll("a").forEach(makeSafe);
  fragment.querySelectorAll("pre").forEach(frameCode);
  fragment.querySelectorAll("table").forEach(frameTable);
  fragment.querySelectorAll("[class]").forEach((element) => {
    if (element.closest(".code, .table") === null && element.className !== "picture") element.removeAttribute("class");
  });
  return [...fragment.childNodes];
}

function makeSafe(link) {
  if (!link.hasAttribute("href")) return link.replaceWith(...link.childNodes);
  link.rel = "noopener noreferrer nofollow";
  link.target = "_blank";
  link.title = link.href;
}

function frameCode(pre) {
  const code = pre.querySelector("code");
  if (!code) return;
  const frame = document.getElementById("t-code").content.firstElementChild.cloneNode(true);
  const language = /^language-([\w+#.-]{1,30})$/.exec(code.className)?.[1] ?? "";
  code.removeAttribute("class");
  highlight(code, language);
  frame.querySelector("span").textContent = language;
  copyFrom(frame.querySelector("button"), () => code.textContent.replace(/\n$/, ""));
  pre.replaceWith(frame);
  pre.tabIndex = 0;
  pre.setAttribute("role", "region");
  pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
  frame.append(pre);
}

function frameTable(table) {
  const frame = document.createElement("div");
  frame.className = "table";
  frame.tabIndex = 0;
  frame.setAttribute("role", "region");
  frame.setAttribute("aria-label", "Table");
  table.replaceWith(frame);
  frame.append(table);
}
