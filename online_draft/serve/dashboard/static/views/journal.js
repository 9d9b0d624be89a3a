// Who decided what, and why?

import { get, url } from "../js/api.js";
import { card, el, fill, when, wide } from "../js/dom.js";
import { clock, number, plural } from "../js/format.js";
import { scrolling, table } from "../js/table.js";

const KINDS = ["propose", "refuse", "canary", "promote", "settle", "roll_back", "pin", "unpin", "pause", "resume", "speculation_off", "speculation_on", "adapter_load", "adapter_drop", "retarget"];
const MOST = 500;

export const journal = { id: "journal", title: "Journal", question: "Who decided what, and why?", mount };

function mount(root, app) {
  const kind = el("select", {}, el("option", { value: "", text: "all" }), KINDS.map((one) => el("option", { value: one, text: one })));
  const version = el("input", { type: "search", placeholder: "all", size: "18" });
  const actor = el("input", { type: "search", placeholder: "all", size: "12" });
  const links = { csv: el("a", { text: "Export CSV", download: "journal.csv" }), json: el("a", { text: "Export JSON", download: "journal.json" }) };
  const list = el("div", {});
  Object.assign(kind, { value: app.state.kind });
  Object.assign(version, { value: app.state.version });
  Object.assign(actor, { value: app.state.actor });
  for (const field of [kind, version, actor]) {
    field.addEventListener("change", () => {
      app.replace({ kind: kind.value, version: version.value.trim(), actor: actor.value.trim() });
      app.refresh();
    });
  }
  const filters = el("div", { class: "bar" }, labelled("Kind", kind), labelled("Version", version), labelled("By", actor), el("span", { class: "grow" }), links.csv, links.json);
  fill(root, el("div", { class: "cards" }, wide(card("Decisions", "Of the chosen range, newest first.", filters, list))));
  let seen = "";

  async function refresh() {
    const asked = {
      start: Math.floor(Date.now() / 1000) - app.store.range.seconds, kind: app.state.kind, version: app.state.version, actor: app.state.actor,
    };
    for (const [format, link] of Object.entries(links)) link.href = url("api/journal", { ...asked, format, limit: 100000 });
    const found = await get("journal", { ...asked, limit: MOST }, app.signal);
    const [known, now] = [seen, JSON.stringify([found.matched, asked.kind, asked.version, asked.actor, found.decisions.at(-1)?.seq])];
    seen = now;
    app.answer(`${plural(found.matched, "decision")} of ${number(found.seq, 0)} in this range${found.matched > MOST ? `; the newest ${MOST} are shown` : ""}.`);
    if (known !== now) fill(list, decisions(found.decisions));
  }

  return { refresh };
}

function labelled(text, field) {
  return el("label", {}, el("span", { text }), field);
}

function decisions(found) {
  if (!found.length) return el("p", { class: "note", text: "No decision matches. Choose a longer range, or fewer filters." });
  const rows = [...found].reverse().map((one) => [
    String(one.seq), when(clock(one.at_ms)), one.kind, el("span", { class: "mono", text: one.version ?? "–" }), one.actor, one.reason, numbers(one.numbers),
  ]);
  return scrolling(table(["no.", "when", "kind", "version", "by", "reason", "numbers"], rows, { numbers: [] }), "Decisions");
}

function numbers(found) {
  if (!Object.keys(found).length) return "–";
  return el("details", {}, el("summary", { text: "show" }), el("code", { text: JSON.stringify(found) }));
}
