// Colours for code: comments, strings, numbers and the words most languages share. A lexer of one regular expression.
const WORDS = new Set(
  `abstract and as assert async await bool break case catch char class const continue def default del do double elif else
  end enum except export extends false finally float fn for foreach from func function global goto if impl implements
  import in include int interface is lambda let local long loop match mod module mut namespace new nil none not null of
  or package pass private protected pub public raise return self short static string struct super switch then this throw
  true try type typeof undefined union unless unsafe until use using var void where while with yield`.split(/\s+/),
);
const SQL = new Set(`add all alter and as asc between by case create delete desc distinct drop else end exists from group
  having in inner insert into is join left like limit not null on or order outer primary key right select set table then
  union unique update values view when where with`.split(/\s+/));
const PLAIN = new Set(["", "text", "txt", "plain", "plaintext", "markdown", "md", "output", "console"]);
const HASH = new Set("python py bash sh shell zsh ruby rb yaml yml toml r perl make makefile dockerfile ini powershell".split(" "));
const DASHES = new Set(["sql", "lua", "haskell", "hs"]);
const MOST = 20000; // characters; longer code stays plain

/** Put spans of a class around what is worth a colour; the text stays the same. */
export function highlight(code, language) {
  const name = language.toLowerCase();
  const text = code.textContent;
  if (PLAIN.has(name) || text.length > MOST) return;
  const words = name === "sql" ? SQL : WORDS;
  const parts = document.createDocumentFragment();
  let end = 0;
  for (const match of text.matchAll(lexer(name))) {
    const { comment, string, number, word } = match.groups;
    const kind = comment ? "c" : string ? "s" : number ? "n" : words.has(name === "sql" ? word.toLowerCase() : word) ? "k" : "";
    if (!kind) continue;
    parts.append(text.slice(end, match.index), Object.assign(document.createElement("span"), { className: `hl-${kind}`, textContent: match[0] }));
    end = match.index + match[0].length;
  }
  parts.append(text.slice(end));
  code.replaceChildren(parts);
}

function lexer(name) {
  const line = HASH.has(name) ? "#[^\\n]*" : DASHES.has(name) ? "--[^\\n]*" : "\\/\\/[^\\n]*|\\/\\*[\\s\\S]*?(?:\\*\\/|$)|<!--[\\s\\S]*?(?:-->|$)";
  const string = '"""[\\s\\S]*?(?:"""|$)|\'\'\'[\\s\\S]*?(?:\'\'\'|$)|"(?:[^"\\\\\\n]|\\\\.)*"?|\'(?:[^\'\\\\\\n]|\\\\.)*\'|`(?:[^`\\\\]|\\\\.)*`?';
  return new RegExp(`(?<comment>${line})|(?<string>${string})|(?<number>\\b\\d[\\w.]*)|(?<word>[A-Za-z_]\\w*)`, "g");
}
