// Is acceptance drifting?

import { get } from "../js/api.js";
import { Chart } from "../js/chart.js";
import { badge, card, el, fill, when, wide } from "../js/dom.js";
import { ago, clock, fixed, percent, plural } from "../js/format.js";
import { marks } from "../js/marks.js";
import { driftRate, ratio, tau } from "../js/ratios.js";
import { column } from "../js/series.js";
import { scrolling, table } from "../js/table.js";

const MOST_LINES = 8;
const BUCKETS = 40;
const VERDICTS = {
  none: ["nothing fell", "good"],
  harder: ["harder traffic", "warn"],
  stale: ["stale drafter", "warn"],
  regressed: ["regressed drafter", "bad"],
  unknown: ["unknown", "quiet"],
};
const MEANING = {
  none: "Acceptance is where it was.",
  harder: "The baseline fell too and the target's entropy rose: the traffic got harder for any drafter.",
  stale: "The traffic moved from what the drafter knows. The learner is at it.",
  regressed: "The champion fell and the baseline didn't: it got worse. Think of rolling back.",
  unknown: "There are too few recent samples to tell.",
};
const NO_SAMPLES = "no samples in this range: the learner replays records when it is idle";

export const drift = { id: "drift", title: "Drift", question: "Is acceptance drifting?", mount };

function mount(root, app) {
  const verdicts = el("div", {});
  const charts = {
    drift: new Chart({ title: "Drift acceptance by segment", wide: true, format: percent0, top: 1,
      note: "How often the champion's likeliest token was right, replayed at a fixed tree; bands are 95 % intervals." }),
    baseline: new Chart({ title: "Champion against baseline", format: percent0, top: 1, note: "Replayed on the same records. If both fall, it is the traffic." }),
    entropy: new Chart({ title: "The target's entropy", format: (value) => fixed(value, 2), note: "In nats: how undecided the target itself is about the next token." }),
    tau: new Chart({ title: "Served τ by segment", wide: true, format: (value) => fixed(value, 2), floor: 1, note: "With all that load and policy do to it." }),
  };
  fill(root, el("div", { class: "cards" }, wide(card("Verdict", null, verdicts)), ...Object.values(charts).map((chart) => chart.node)));

  function take(status) {
    const states = (status.drift ?? []).filter((one) => !app.state.segment || one.segment === app.state.segment);
    fill(verdicts, verdictTable(states));
    app.answer(...answer(states));
  }

  async function refresh() {
    const resolution = Math.max(10, 10 * Math.round(app.store.range.seconds / BUCKETS / 10));
    const end = Math.floor(Date.now() / 1000) + 1;
    const start = end - app.store.range.seconds;
    const [samples, group, noted] = await Promise.all([
      get("drift/samples", { start, end, resolution, segment: app.state.segment }, app.signal),
      app.store.load(["segment"], app.signal),
      marks(app.store, app.signal),
    ]);
    const at = [];
    const step = samples.resolution;
    for (let bucket = start - (start % step); bucket < end; bucket += step) at.push(bucket);
    const total = (one) => one.buckets.samples.reduce((all, count) => all + count, 0);
    const series = samples.series.filter((one) => one.buckets.at.length).sort((a, b) => total(b) - total(a)).slice(0, MOST_LINES);
    const bands = series.length <= 4;
    const served = group.named("segment").slice(0, MOST_LINES);
    const names = [...new Set([...series.map((one) => one.segment), ...served.map((one) => one.name)])].sort();
    const lines = series.map((one) => ({ ...driftLine(at, one, bands), hue: names.indexOf(one.segment) }));
    charts.drift.show({ at, lines, marks: noted, empty: NO_SAMPLES });
    const every = summed(samples.series);
    charts.baseline.show({ at, marks: noted, empty: NO_SAMPLES, lines: [
      { ...driftLine(at, { segment: "champion", buckets: every }, true), hue: 0 },
      { label: "baseline", hue: 1, dash: true, values: onGrid(at, every, (index) => ratio(every.baseline_hits[index], every.baseline_tried[index])) },
    ] });
    charts.entropy.show({ at, marks: noted, empty: NO_SAMPLES, lines: [
      { label: "entropy", hue: 4, values: onGrid(at, every, (index) => ratio(every.entropy_micro[index] / 1e6, every.positions[index])) },
    ] });
    charts.tau.show({ at: group.grid, marks: noted, lines: served.map((one) => ({ label: one.name, hue: names.indexOf(one.name), values: column(group.grid, one.rows, tau) })) });
    if (app.status()) take(app.status());
  }

  return { refresh, take, destroy: () => Object.values(charts).forEach((chart) => chart.destroy()) };
}

function percent0(value) {
  return percent(value, 0);
}

function onGrid(at, columns, value) {
  const known = new Map(columns.at.map((start, index) => [start, index]));
  return at.map((start) => (known.has(start) ? value(known.get(start)) : null));
}

function driftLine(at, one, bands) {
  const rates = onGrid(at, one.buckets, (index) => driftRate(one.buckets, index));
  const side = (name) => rates.map((rate) => rate?.[name] ?? null);
  return { label: one.segment, values: side("rate"), ...(bands ? { low: side("low"), high: side("high") } : {}) };
}

// All segments' sums, bucket by bucket.
function summed(series) {
  const names = Object.keys(series[0]?.buckets ?? { at: [] });
  const rows = new Map();
  for (const { buckets } of series) {
    buckets.at.forEach((start, index) => {
      if (!rows.has(start)) rows.set(start, Object.fromEntries(names.map((name) => [name, 0])));
      for (const name of names) if (name !== "at") rows.get(start)[name] += buckets[name][index];
    });
  }
  const at = [...rows.keys()].sort((a, b) => a - b);
  return Object.fromEntries(names.map((name) => [name, name === "at" ? at : at.map((start) => rows.get(start)[name])]));
}

function answer(states) {
  const alarmed = states.filter((one) => one.alarm);
  if (!states.length) return ["Nothing is known yet: control watches segments that the learner has replayed.", "quiet"];
  if (alarmed.length === 1) return [`Yes, ${alarmed[0].segment}. ${MEANING[alarmed[0].verdict]}`, "bad"];
  if (alarmed.length) return [`Yes, in ${plural(alarmed.length, "segment")}: ${alarmed.map((one) => one.segment).join(", ")}.`, "bad"];
  if (states.every((one) => one.verdict === "unknown")) return [MEANING.unknown, "quiet"];
  return [`No: nothing fell in ${plural(states.filter((one) => one.verdict === "none").length, "segment")}.`, "good"];
}

function verdictTable(states) {
  if (!states.length) return el("p", { class: "note", text: "No segment is watched yet." });
  const sorted = [...states].sort((a, b) => b.alarm - a.alarm || (a.segment < b.segment ? -1 : 1));
  const rows = sorted.map((one) => [
    one.segment, badge(...VERDICTS[one.verdict]), shift(one.figures.champion, percent), shift(one.figures.baseline, percent),
    shift(one.figures.entropy, (value) => fixed(value, 2)), shift(one.figures.same_version, percent), when(one.alarm ? clock(one.alarm_ms) : "–"), ago(one.at_ms),
  ]);
  const names = ["segment", "verdict", "champion", "baseline", "entropy, nats", "same versions", "alarm since", "last sample"];
  return scrolling(table(names, rows, { numbers: [2, 3, 4, 5] }), "Verdict by segment");
}

function shift(figure, format) {
  if (!figure) return "–";
  return `${format(figure.before)} → ${format(figure.after)} (z ${figure.z})`;
}
