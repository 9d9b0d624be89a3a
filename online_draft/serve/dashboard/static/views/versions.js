// Which version drafts, where does it come from, and should it?

import { get } from "../js/api.js";
import { Chart } from "../js/chart.js";
import { badge, card, el, fill, say, when, wide } from "../js/dom.js";
import { confirm } from "../js/dialog.js";
import { bytes, clock, fixed, number, percent, plural } from "../js/format.js";
import { marks, short } from "../js/marks.js";
import { sum, tau } from "../js/ratios.js";
import { column } from "../js/series.js";
import { scrolling, table } from "../js/table.js";
import { actions } from "./actions.js";
import { comparison, lineage } from "./lineage.js";

const ROLE_KINDS = { champion: "good", canary: "warn", candidate: "warn", pinned: "warn" };
const MOST_LINES = 8;

export const versions = { id: "versions", title: "Versions", question: "Which version drafts, and should it?", mount };

function mount(root, app) {
  const buttons = el("div", { class: "actions" });
  const notice = el("p", { class: "notice", role: "status" });
  const list = el("div", {});
  const tree = el("div", {});
  const arms = el("div", {});
  const compared = el("div", {});
  const live = new Chart({ title: "Served τ by version", note: "Live, on whatever traffic each drafted for.", wide: true, format: (value) => fixed(value, 2), floor: 1 });
  fill(root, el("div", { class: "cards" },
    wide(card("Decide", "Each is confirmed, entered in the journal, and followed by all replicas within seconds.", buttons, notice)),
    wide(card("Versions", null, list)), card("Canary and watch", "The two that draft side by side.", arms), card("Lineage", null, tree),
    live.node, wide(card("Compare two versions", null, compared))));
  let known = [];
  let drawn = "";
  let own = 0;  // the last decision made here, of which the events may not tell yet

  async function act(action) {
    const written = await confirm({ ...action, seq: Math.max(own, app.status().ladder.seq) });
    if (!written) return;
    own = written.seq;
    say(notice, `Decision ${written.seq}: ${written.kind.replace("_", " ")} ${written.version ?? ""}, by ${written.actor}. Replicas follow.`, "notice good");
    app.refresh();
  }

  function take(status) {
    if (!status.ladder) return app.answer(`The journal can't be read: ${status.journal_error}`, "bad");
    const now = JSON.stringify([status.ladder, known.map((one) => one.version)]);
    fill(arms, armsOf(status));
    app.answer(answer(status));
    const following = (status.replicas ?? []).filter((one) => one.drafter_version === status.ladder.champion).length;
    if (notice.textContent && status.replicas) say(notice, notice.textContent.replace(/ Replicas follow\.$|(?: \d+ of \d+ replicas? draft with the champion\.)$/, ` ${following} of ${plural(status.replicas.length, "replica")} draft with the champion.`));
    if (now === drawn) return;
    drawn = now;
    const focused = document.activeElement?.textContent;
    fill(buttons, actions(status.ladder).map((action) => el("button", { type: "button", class: action.danger ? "danger" : null, disabled: action.disabled, title: action.disabled ? action.why : null, text: action.label, onclick: () => act(action) })));
    fill(list, versionTable(known, status.ladder, act));
    fill(tree, lineage(known));
    fill(compared, comparison(known, app.state, app.go));
    if (focused) [...buttons.children].find((button) => button.textContent === focused)?.focus();
  }

  async function refresh() {
    const [found, group, noted, gates] = await Promise.all([
      get("drafters", {}, app.signal), app.store.load(["version"], app.signal), marks(app.store, app.signal),
      get("journal", { kind: ["propose", "promote"], limit: 10000 }, app.signal),
    ]);
    const served = group.named("version").filter((one) => one.name);
    known = found.drafters.map((one) => {
      const about = gates.decisions.filter((other) => other.version === one.version);
      const promoted = about.findLast((other) => other.kind === "promote")?.at_ms;
      const rows = served.find((other) => other.name === one.version)?.rows ?? new Map();
      const since = [...rows].filter(([at]) => promoted && at + group.resolution > promoted / 1000).map(([, row]) => row);
      return { ...one, served: sum(rows.values()), since: sum(since), promoted, gate: about.findLast((other) => other.kind === "propose")?.numbers };
    });
    drawn = "";
    const lines = served.slice(0, MOST_LINES).map((one) => ({ label: one.name === "none" ? "plain decoding" : short(one.name), values: column(group.grid, one.rows, tau) }));
    live.show({ at: group.grid, lines, marks: noted });
    if (app.status()) take(app.status());
  }

  return { refresh, take, destroy: () => live.destroy() };
}

function answer(status) {
  const { champion, pinned, canary, candidate, learner_paused: paused } = status.ladder;
  const said = [champion ? `${champion} drafts` : "No version drafts yet"];
  if (pinned) said.push("pinned: nothing replaces it");
  if (canary) said.push(`${canary} is on trial as a canary`);
  else if (candidate) said.push(`${candidate} waits as the candidate`);
  if (paused) said.push("the learner is paused");
  return `${said.join("; ")}.`;
}

function versionTable(known, ladder, act) {
  if (!known.length) return el("p", { class: "note", text: "No version is published yet." });
  const sorted = [...known].sort((a, b) => b.roles.length - a.roles.length || (created(b) - created(a)));
  const rows = sorted.map((one) => [
    el("span", { class: "mono", text: one.version }),
    el("span", {}, one.roles.length ? one.roles.flatMap((role) => [badge(role, ROLE_KINDS[role]), " "]) : "–"),
    percent(one.share, 0), fixed(tau(one.served), 2), number(one.served.requests, 0),
    one.error ? badge(one.error, "bad") : `${one.kind}, ${bytes(one.bytes)}`, when(clock(created(one))), rowActions(one, ladder, act),
  ]);
  const names = ["version", "roles", "share", "τ served", "requests", "what", "made", "decide"];
  return scrolling(table(names, rows, { numbers: [2, 3, 4] }), "Versions");
}

function rowActions(one, ladder, act) {
  const mine = actions(ladder, one.version).filter((action) => !action.disabled);
  return el("span", { class: "actions" }, mine.map((action) => el("button", { type: "button", text: action.label, "aria-label": `${action.label} ${one.version}`, onclick: () => act(action) })));
}

export function created(one) {
  return one.provenance?.created_at_ms ?? 0;
}

function armsOf(status) {
  const shown = status.control?.arms;
  if (!shown) return el("p", { class: "note", text: "One version drafts for all, so there is nothing to compare." });
  const live = shown.live;
  const rows = [
    ["second", shown.second], ["role", shown.role], ["share", percent(shown.share, 0)],
    ["requests, second and champion", live ? live.requests.join(" and ") : "–"], ["τ, second and champion", live ? live.tau.map((value) => fixed(value, 2)).join(" and ") : "–"],
    ["difference", live ? percent(live.gain) : "–"], ["z, and how far chance goes", live ? `${live.z}, ${live.z_bound ?? "–"}` : "–"],
  ];
  return table(["", ""], rows, { numbers: [], label: "Canary comparison" });
}
