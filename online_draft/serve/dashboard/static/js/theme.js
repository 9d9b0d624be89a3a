// Light, dark or as the system says; colours as canvases need them.

const probe = document.createElement("span");
probe.hidden = true;
const listeners = new Set();
const ORDER = ["auto", "light", "dark"];

export function colour(name) {
  if (!probe.isConnected) document.body.append(probe);
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

export const palette = (index) => colour(`c${(index % 8) + 1}`);

export function theme() {
  return document.documentElement.dataset.theme;
}

export function setTheme(name) {
  document.documentElement.dataset.theme = ORDER.includes(name) ? name : "auto";
  try {
    localStorage.setItem("theme", name);
  } catch { /* not kept, then */ }
  listeners.forEach((listener) => listener());
}

export function nextTheme() {
  setTheme(ORDER[(ORDER.indexOf(theme()) + 1) % ORDER.length]);
}

export function onTheme(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function start() {
  let kept = "auto";
  try {
    kept = localStorage.getItem("theme") ?? "auto";
  } catch { /* as the system says */ }
  setTheme(kept);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => listeners.forEach((listener) => listener()));
}
