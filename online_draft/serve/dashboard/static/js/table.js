// Plain tables. A cell is text, or a node.

import { el } from "./dom.js";

// `numbers`: which columns are aligned as numbers; by default all but the first.
export function table(names, rows, { caption, numbers, label } = {}) {
  const aligned = (index) => (numbers ? numbers.includes(index) : index > 0);
  const kind = (index) => (aligned(index) ? "number" : null);
  const cell = (value, index) => {
    const node = el(index === 0 ? "th" : "td", { class: kind(index), scope: index === 0 ? "row" : null });
    node.append(value instanceof Node ? value : document.createTextNode(value ?? "–"));
    return node;
  };
  return el("table", { "aria-label": label },
    caption ? el("caption", { text: caption }) : null,
    el("thead", {}, el("tr", {}, names.map((name, index) => el("th", { scope: "col", class: kind(index), text: name })))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map(cell)))));
}

export function scrolling(node, label) {
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, node);
}
