// Elements. Text from outside only ever becomes text, never markup.

export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

export function fill(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
}

// Sets text without touching the node when nothing changed, so that a screen reader isn't told again.
export function say(node, text, className) {
  if (node.textContent !== text) node.textContent = text;
  if (className !== undefined && node.className !== className) node.className = className;
}

export function badge(text, kind = "quiet") {
  return el("span", { class: `badge ${kind}`, text });
}

export function card(title, note, ...children) {
  return el("section", { class: "card" }, el("h3", { text: title }), note && el("p", { class: "note", text: note }), ...children);
}

export function wide(node) {
  node.classList.add("wide");
  return node;
}

// A moment, never broken over two lines.
export function when(text) {
  return el("span", { class: "when", text });
}

// A list of named figures whose values are set later: `set({name: text})`.
export function figures(names) {
  const values = {};
  const node = el("dl", { class: "figures" });
  for (const name of names) {
    values[name] = el("dd", { text: "–" });
    node.append(el("div", {}, el("dt", { text: name }), values[name]));
  }
  return { node, set: (shown) => Object.entries(shown).forEach(([name, text]) => say(values[name], text)) };
}
