// Where versions come from, and how two of them differ.

import { badge, el } from "../js/dom.js";
import { bytes, clock, fixed, number, percent } from "../js/format.js";
import { tau } from "../js/ratios.js";
import { scrolling, table } from "../js/table.js";

export function lineage(known) {
  if (!known.length) return el("p", { class: "note", text: "No version is published yet." });
  const names = new Set(known.map((one) => one.version));
  const roots = known.filter((one) => !names.has(one.provenance?.parent));
  const seen = new Set();
  const branch = (one) => {
    seen.add(one.version);
    const children = known.filter((other) => other.provenance?.parent === one.version && !seen.has(other.version));
    return el("li", {}, el("span", { class: "mono", text: one.version }), " ", one.roles.map((role) => badge(role, role === "champion" ? "good" : "quiet")),
      children.length ? el("ul", { class: "lineage" }, children.map(branch)) : null);
  };
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Lineage" }, el("ul", { class: "lineage" }, roots.map(branch)));
}

export function comparison(known, state, go) {
  if (known.length < 2) return el("p", { class: "note", text: "It takes two versions." });
  const champion = known.find((one) => one.roles.includes("champion")) ?? known[0];
  const pick = (name, fallback) => known.find((one) => one.version === state[name]) ?? fallback;
  const left = pick("version", champion);
  const right = pick("other", known.find((one) => one.roles.includes("previous")) ?? known.find((one) => one !== left));
  const chooser = (name, label, chosen) => {
    const select = el("select", {}, known.map((one) => el("option", { value: one.version, text: one.version, selected: one === chosen })));
    select.addEventListener("change", () => go({ [name]: select.value }));
    return el("label", {}, el("span", { text: label }), select);
  };
  const facts = [...new Set([left, right].flatMap((one) => Object.keys(one.provenance ?? {})))];
  const rows = [
    ["τ served in this range", ...[left, right].map((one) => fixed(tau(one.served), 2))],
    ["requests in this range", ...[left, right].map((one) => number(one.served.requests, 0))],
    ["last promoted", ...[left, right].map((one) => clock(one.promoted))],
    ["τ since then, in this range", ...[left, right].map((one) => fixed(tau(one.since), 2))],
    ["gate: τ, and the champion's then", ...[left, right].map((one) => (one.gate?.tau_candidate ? `${fixed(one.gate.tau_candidate, 2)}, ${fixed(one.gate.tau_champion, 2)}` : "–"))],
    ["gate: gain (at least)", ...[left, right].map((one) => (one.gate?.gain === undefined ? "–" : `${percent(one.gate.gain)} (${percent(one.gate.lower_bound)})`))],
    ["gate: held-out records", ...[left, right].map((one) => number(one.gate?.records, 0))],
    ["kind", left.kind, right.kind], ["size", bytes(left.bytes), bytes(right.bytes)],
    ...facts.map((name) => [name === "created_at_ms" ? "made" : name.replaceAll("_", " "), plain(left.provenance?.[name], name), plain(right.provenance?.[name], name)]),
  ];
  return el("div", {}, el("div", { class: "bar" }, chooser("version", "One", left), chooser("other", "Other", right)),
    scrolling(table(["", left.version, right.version], rows, { numbers: [] }), "Comparison"));
}

function plain(value, name) {
  if (value === null || value === undefined || value === "" || (typeof value === "object" && !Object.keys(value).length)) return "–";
  if (typeof value === "number") return name.endsWith("_ms") ? clock(value) : number(value, 4);
  return el("span", { class: "mono", text: typeof value === "object" ? JSON.stringify(value) : String(value) });
}
