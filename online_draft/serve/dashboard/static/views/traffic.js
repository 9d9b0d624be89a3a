// What is asked?

import { get } from "../js/api.js";
import { Chart } from "../js/chart.js";
import { card, el, fill, when, wide } from "../js/dom.js";
import { clock, fixed, number, percent, plural } from "../js/format.js";
import { errors, ratio, tau } from "../js/ratios.js";
import { column } from "../js/series.js";
import { scrolling, table } from "../js/table.js";

const MOST_LINES = 8;
const LEAST = 20;
const RECENT = 500;
const FEW_STEPS = 4;

export const traffic = { id: "traffic", title: "Traffic", question: "What is asked?", mount };

function mount(root, app) {
  const list = el("div", {});
  const least = el("div", {});
  const charts = {
    requests: new Chart({ title: "Requests per minute by segment", wide: true, format: (value) => number(value, 1) }),
    prompt: new Chart({ title: "Prompt length by segment", note: "Mean tokens of a prompt.", format: (value) => number(value, 0) }),
    answer: new Chart({ title: "Answer length by segment", note: "Mean tokens of an answer.", format: (value) => number(value, 0) }),
  };
  fill(root, el("div", { class: "cards" }, ...Object.values(charts).map((chart) => chart.node), wide(card("Segments in this range", null, list)),
    wide(card("Least accepted recent requests", `Of the newest ${RECENT} records with ${FEW_STEPS} steps or more: counts only, neither tokens nor text. Requests that opted out of records are not here.`, least))));

  async function refresh() {
    const [group, recent] = await Promise.all([app.store.load(["segment"], app.signal), get("requests", { limit: RECENT, segment: app.state.segment }, app.signal)]);
    const series = group.named("segment");
    const at = group.grid;
    const shown = series.slice(0, MOST_LINES);
    const lines = (value, missing) => shown.map((one) => ({ label: one.name, values: column(at, one.rows, value, missing) }));
    charts.requests.show({ at, lines: lines((row) => (60 * row.requests) / group.resolution, 0) });
    charts.prompt.show({ at, lines: lines((row) => ratio(row.prompt_tokens, row.requests)) });
    charts.answer.show({ at, lines: lines((row) => ratio(row.committed, row.requests)) });
    const all = series.reduce((total, one) => total + one.total.requests, 0);
    fill(list, series.length ? segmentTable(series, all) : el("p", { class: "note", text: "No traffic yet: send a request with an X-Segment header." }));
    fill(least, leastAccepted(recent.requests));
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

function leastAccepted(requests) {
  const worst = requests.filter((one) => one.steps >= FEW_STEPS).sort((a, b) => a.committed / a.steps - b.committed / b.steps).slice(0, LEAST);
  if (!worst.length) return el("p", { class: "note", text: "No records yet." });
  const rows = worst.map((one) => [
    one.record, when(clock(one.at_ms)), one.segment, one.tenant, one.version || "–", number(one.prompt_tokens, 0), number(one.committed, 0), number(one.steps, 0), fixed(one.committed / one.steps, 2),
  ]);
  return scrolling(table(["record", "when", "segment", "tenant", "version", "prompt tokens", "answer tokens", "steps", "τ"], rows, { numbers: [5, 6, 7, 8] }), "Least accepted requests");
}
