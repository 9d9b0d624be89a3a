// Is it healthy?

import { get } from "../js/api.js";
import { Chart } from "../js/chart.js";
import { badge, card, el, figures, fill, say, wide } from "../js/dom.js";
import { clock, fixed, milliseconds, number, plural } from "../js/format.js";
import { errors, quantile, ratio, tau } from "../js/ratios.js";
import { column } from "../js/series.js";
import { scrolling, table } from "../js/table.js";

const SHARES = [["p50", 0.5], ["p95", 0.95], ["p99", 0.99]];
const NO_TRAFFIC = "no traffic yet: send a request with curl URL/v1/chat/completions (docs/api.md)";
const SPEEDUP = "speedup, estimated";
const ESTIMATE = "The speedup over plain decoding is an estimate for the last 15 minutes: what plain steps would have taken for the same tokens, by their measured cost, over what decoding took.";

export const health = { id: "health", title: "Health", question: "Is it healthy?", mount };

function mount(root, app) {
  const head = figures(["τ", "tokens / s", "requests", "errors", "first token p95", "between tokens p95", SPEEDUP]);
  const charts = {
    tau: new Chart({ title: "Accepted length τ", note: "Tokens that a step commits; plain decoding has 1.", format: (value) => fixed(value, 2), floor: 1 }),
    tokens: new Chart({ title: "Tokens per second", note: "Given out by all replicas.", format: (value) => number(value, 0) }),
    requests: new Chart({ title: "Requests and errors per minute", note: "Requests count where they end.", format: (value) => number(value, 1) }),
    first: new Chart({ title: "Time to the first token", note: "From a replica's receipt of the request.", format: milliseconds }),
    inter: new Chart({ title: "Time between two outputs", note: "Of a stream, however many tokens come at once.", format: milliseconds }),
  };
  const replicas = el("div", {});
  const alarms = el("ul", { class: "alarms" });
  const webhooks = el("p", { class: "note" });
  const learner = el("p", {});
  fill(root, el("div", { class: "cards" },
    wide(card("In this range", ESTIMATE, head.node)),
    ...Object.values(charts).map((chart) => chart.node),
    card("Alarms", null, alarms, webhooks, el("h3", { text: "Learner" }), learner),
    wide(card("Replicas", null, replicas))));

  function take(status) {
    fill(replicas, replicaTable(status));
    fill(alarms, alarmList(status));
    say(webhooks, webhookLine(status));
    learner.textContent = learnerLine(status);
    const [text, kind] = verdict(status);
    app.answer(text, kind);
  }

  async function refresh() {
    const [group, counted] = await Promise.all([app.store.load([], app.signal), get("speculation/counts", { replica: app.state.replica }, app.signal)]);
    const { rows, total } = group.whole;
    const at = group.grid;
    const seconds = Math.max(1, group.end - group.start);
    head.set({
      "τ": fixed(tau(total), 2),
      "tokens / s": number(total.tokens / seconds, 1),
      "requests": number(total.requests, 0),
      "errors": number(errors(total), 0),
      "first token p95": milliseconds(quantile(total.first_token, group.bounds, 0.95)),
      "between tokens p95": milliseconds(quantile(total.inter_token, group.bounds, 0.95)),
      [SPEEDUP]: speedup(counted.replicas),
    });
    const per = (value) => (row) => value(row) / group.resolution;
    const empty = NO_TRAFFIC;
    charts.tau.show({ at, lines: [{ label: "τ", values: column(at, rows, tau) }], empty });
    charts.tokens.show({ at, lines: [{ label: "tokens / s", values: rows.size ? column(at, rows, per((row) => row.tokens), 0) : column(at, rows, () => null) }], empty });
    charts.requests.show({ at, empty, lines: [
      { label: "requests", values: rows.size ? column(at, rows, (row) => (60 * row.requests) / group.resolution, 0) : column(at, rows, () => null) },
      { label: "errors", values: rows.size ? column(at, rows, (row) => (60 * errors(row)) / group.resolution, 0) : column(at, rows, () => null), hue: 6, dash: true },
    ] });
    const latency = (name) => SHARES.map(([label, share], hue) => ({ label, hue, values: column(at, rows, (row) => quantile(row[name], group.bounds, share)) }));
    charts.first.show({ at, lines: latency("first_token"), empty });
    charts.inter.show({ at, lines: latency("inter_token"), empty });
    if (app.status()) take(app.status());
  }

  return { refresh, take, destroy: () => Object.values(charts).forEach((chart) => chart.destroy()) };
}

function speedup(replicas) {
  const sum = (name) => replicas.reduce((all, one) => all + one[name], 0);
  const found = ratio(sum("plain_us"), sum("spent_us"));
  return found === null ? "–" : `${fixed(found, 2)} ×`;
}

function verdict(status) {
  if (status.journal_error) return [`The journal can't be read: ${status.journal_error}`, "bad"];
  if (status.redis_error) return [`Redis is away, so there are no counts: ${status.redis_error}`, "bad"];
  const replicas = status.replicas ?? [];
  const broken = replicas.filter((one) => one.engine_error);
  const alarms = status.alarms ?? [];
  if (broken.length) return [`No: ${plural(broken.length, "replica")} can't work.`, "bad"];
  if (!replicas.length) return ["No replica tells its load.", "bad"];
  const champion = status.ladder?.champion ?? "no drafter";
  const much = `${plural(replicas.length, "replica")}, champion ${champion}`;
  return alarms.length ? [`It serves (${much}), with ${plural(alarms.length, "alarm")}.`, "warn"] : [`Yes: ${much}, no alarms.`, "good"];
}

function replicaTable(status) {
  if (!status.replicas?.length) return el("p", { class: "note", text: "None tells its load. It takes a few seconds after a start." });
  const rows = status.replicas.map((one) => [
    one.replica, version(one, status), one.second_version ? `${one.second_version} (${number(100 * ratio(one.second_share ?? 0, 1), 0)} %)` : "–",
    number(one.running, 0), number(one.waiting, 0), one.kernel ?? "–", one.engine_error ? badge(one.engine_error, "bad") : badge("works", "good"),
  ]);
  return scrolling(table(["replica", "drafts with", "and with", "running", "waiting", "kernel", "state"], rows, { numbers: [3, 4] }), "Replicas");
}

function version(one, status) {
  const champion = status.ladder?.champion;
  const node = el("span", {}, one.drafter_version ?? "–", " ");
  if (champion && one.drafter_version && one.drafter_version !== champion) node.append(badge("not the champion", "warn"));
  return node;
}

function alarmList(status) {
  const alarms = status.alarms ?? [];
  if (!alarms.length) return [el("li", {}, badge("none", "good"))];
  return alarms.map((one) => el("li", {}, badge(one.code, "bad"), ` ${one.about}: ${one.message} `, el("span", { class: "note", text: one.since_ms ? `since ${clock(one.since_ms)}` : "" })));
}

// Whether those who are told of alarms take what they are told.
function webhookLine(status) {
  const told = Object.entries(status.control?.webhooks ?? {});
  return told.map(([name, one]) => `Webhook ${name}: ${one.trouble || "works"}, ${plural(one.sent, "message")} sent, ${number(one.waiting, 0)} waiting.`).join(" ");
}

function learnerLine(status) {
  if (status.ladder?.learner_paused) return "Paused by decision.";
  if (!status.learner) return "Says nothing: it isn't enabled, or has just started.";
  return [status.learner.state, status.learner.reason].filter(Boolean).join(": ");
}
