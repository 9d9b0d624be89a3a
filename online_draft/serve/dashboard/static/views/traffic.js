// What is asked?

import { get } from "../js/api.js";
import { Chart } from "../js/chart.js";
import { card, el, fill, when, wide } from "../js/dom.js";
import { clock, fixed, milliseconds, number, percent, plural } from "../js/format.js";
import { errors, ratio, tau } from "../js/ratios.js";
import { column } from "../js/series.js";
import { scrolling, table } from "../js/table.js";

const MOST_LINES = 8;
const NOTE = "Of the last 15 minutes, the last 512 of each replica. Ids and counts only: neither tokens nor text.";

export const traffic = { id: "traffic", title: "Traffic", question: "What is asked?", mount };

function mount(root, app) {
  const list = el("div", {});
  const slowest = el("div", {});
  const least = el("div", {});
  const charts = {
    requests: new Chart({ title: "Requests per minute by segment", wide: true, format: (value) => number(value, 1) }),
    prompt: new Chart({ title: "Prompt length by segment", note: "Mean tokens of a prompt.", format: (value) => number(value, 0) }),
    answer: new Chart({ title: "Answer length by segment", note: "Mean tokens of an answer.", format: (value) => number(value, 0) }),
  };
  fill(root, el("div", { class: "cards" }, ...Object.values(charts).map((chart) => chart.node), wide(card("Segments in this range", null, list)),
    wide(card("Slowest recent requests", NOTE, slowest)), wide(card("Least accepted recent requests", NOTE, least))));

  async function refresh() {
    const [group, recent] = await Promise.all([app.store.load(["segment"], app.signal), get("requests/notable", { segment: app.state.segment, replica: app.state.replica }, app.signal)]);
    const series = group.named("segment");
    const at = group.grid;
    const shown = series.slice(0, MOST_LINES);
    const lines = (value, missing) => shown.map((one) => ({ label: one.name, values: column(at, one.rows, value, missing) }));
    charts.requests.show({ at, lines: lines((row) => (60 * row.requests) / group.resolution, 0) });
    charts.prompt.show({ at, lines: lines((row) => ratio(row.prompt_tokens, row.requests)) });
    charts.answer.show({ at, lines: lines((row) => ratio(row.committed, row.requests)) });
    const all = series.reduce((total, one) => total + one.total.requests, 0);
    fill(list, series.length ? segmentTable(series, all) : el("p", { class: "note", text: "No traffic yet: send a request with an X-Segment header." }));
    fill(slowest, requestTable(recent.slowest, "Slowest requests"));
    fill(least, requestTable(recent.least_accepted, "Least accepted requests"));
    app.answer(all ? `${plural(all, "request")} in ${plural(series.length, "segment")}, most of them ${series.reduce((most, one) => (one.total.requests > most.total.requests ? one : most)).name}.` : "Nothing was asked in this range.");
  }

  return { refresh, destroy: () => Object.values(charts).forEach((chart) => chart.destroy()) };
}

function segmentTable(series, all) {
  const rows = series.map(({ name, total }) => [
    name, number(total.requests, 0), percent(ratio(total.requests, all), 0), number(ratio(total.prompt_tokens, total.requests), 0),
    number(ratio(total.committed, total.requests), 0), fixed(tau(total), 2), number(errors(total), 0),
  ]);
  return scrolling(table(["segment", "requests", "share", "prompt tokens", "answer tokens", "τ", "errors"], rows), "Segments");
}

function requestTable(requests, label) {
  if (!requests.length) return el("p", { class: "note", text: "None in the last 15 minutes." });
  const rows = requests.map((one) => [
    when(one.request), milliseconds(one.total_us / 1000), milliseconds(one.first_token_us / 1000), fixed(ratio(one.tokens, one.steps), 2), number(one.steps, 0), number(one.tokens, 0),
    number(one.prompt_tokens, 0), one.segment, one.tenant, one.version === "none" ? "plain decoding" : one.version, when(clock(one.at_ms).slice(11)),
  ]);
  return scrolling(table(["request", "in all", "first token", "τ", "steps", "answer tokens", "prompt tokens", "segment", "tenant", "version", "ended"], rows, { numbers: [1, 2, 3, 4, 5, 6] }), label);
}
