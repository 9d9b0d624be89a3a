// Where in the tree is it lost?

import { get } from "../js/api.js";
import { Chart } from "../js/chart.js";
import { card, el, figures, fill, wide } from "../js/dom.js";
import { fixed, number, percent } from "../js/format.js";
import { HeatMap } from "../js/heatmap.js";
import { acceptance, ratio, sources, tau, treeSize } from "../js/ratios.js";
import { Reliability } from "../js/reliability.js";
import { column } from "../js/series.js";
import { scrolling, table } from "../js/table.js";

const SOURCES = { heads: "heads", ngram: "n-gram memory" };

export const tree = { id: "tree", title: "Tree", question: "Where in the tree is it lost?", mount };

function mount(root, app) {
  const head = figures(["τ", "drafted nodes a step", "accepted of drafted", "from heads", "from n-gram memory", "from the root"]);
  const map = new HeatMap({ title: "Acceptance by depth over time", note: "Of the steps that reached a depth, those in which a drafted node was right." });
  const charts = {
    size: new Chart({ title: "Tree size chosen", note: "Drafted nodes a step, on average; the policy drafts nothing where that wouldn't pay.", format: (value) => fixed(value, 2) }),
    source: new Chart({ title: "Where committed tokens come from", note: "The root is the target's own token, one a step.", format: (value) => percent(value, 0), top: 1 }),
  };
  const promises = new Reliability({ title: "Calibration: promised and observed", note: "Drafted nodes by tenths of the probability that they were given, and how many of them were right, since the engines' policy began. Above the dashed line they promise too little, below it too much." });
  const depths = el("div", {});
  fill(root, el("div", { class: "cards" }, wide(card("In this range", null, head.node)), map.node, charts.size.node, charts.source.node, promises.node,
    card("By depth, whole range", "A conditional share: what is lost at one depth isn't counted at the next.", depths)));

  async function refresh() {
    const [group, counted] = await Promise.all([app.store.load([], app.signal), get("speculation/counts", { replica: app.state.replica }, app.signal)]);
    const { rows, total } = group.whole;
    const at = group.grid;
    const from = sources(total);
    const part = (count) => percent(ratio(count, total.committed));
    const accepted = total.accepted.reduce((all, count) => all + count, 0);
    head.set({
      "τ": fixed(tau(total), 2), "drafted nodes a step": fixed(treeSize(total), 1), "accepted of drafted": percent(ratio(accepted, total.drafted)),
      "from heads": part(from.heads), "from n-gram memory": part(from.ngram), "from the root": part(from.root),
    });
    const empty = total.steps ? "nothing was drafted in this range" : "no traffic in this range";
    const every = total.tried.map((_, depth) => depth);
    map.show({ at, empty, values: every.map((depth) => column(at, rows, (row) => acceptance(row, depth))), tried: every.map((depth) => column(at, rows, (row) => row.tried[depth] ?? 0, 0)) });
    charts.size.show({ at, lines: [{ label: "nodes a step", values: column(at, rows, treeSize) }], empty });
    const share = (name) => column(at, rows, (row) => ratio(sources(row)[name], row.committed));
    charts.source.show({ at, empty, lines: [
      { label: "heads", values: share("heads") }, { label: "n-gram memory", values: share("ngram"), dash: true }, { label: "root", values: share("root"), hue: 4 },
    ] });
    promises.show({ sources: Object.entries(SOURCES).map(([name, label]) => ({ label, points: tenths(counted.replicas, name) })), empty: "nothing was drafted yet" });
    fill(depths, depthTable(total, every, empty));
    app.answer(...answer(total, every, empty));
  }

  return { refresh, destroy: () => [map, promises, ...Object.values(charts)].forEach((chart) => chart.destroy()) };
}

// All replicas' nodes of a source by tenth of the promised probability, without empty tenths.
function tenths(replicas, source) {
  const told = replicas.map((one) => one.sources[source]).filter(Boolean);
  const sum = (name, tenth) => told.reduce((all, one) => all + one[name][tenth], 0);
  const every = told.length ? told[0].nodes.map((_, tenth) => tenth) : [];
  return every.map((tenth) => {
    const nodes = sum("nodes", tenth);
    return { nodes, promised: ratio(sum("promised_micro", tenth) / 1e6, nodes), observed: ratio(sum("accepted", tenth), nodes) };
  }).filter((point) => point.nodes);
}

function answer(total, every, empty) {
  if (!every.length) return [`${empty[0].toUpperCase()}${empty.slice(1)}.`, "quiet"];
  const lost = every.map((depth) => total.tried[depth] - total.accepted[depth]);
  const most = lost.indexOf(Math.max(...lost));
  const all = lost.reduce((sum, count) => sum + count, 0);
  return [`Most walks end at depth ${most + 1}: ${percent(ratio(lost[most], all), 0)} of those that a wrong draft ended.`, ""];
}

function depthTable(total, every, empty) {
  if (!every.length) return el("p", { class: "note", text: empty });
  const rows = every.map((depth) => [
    `depth ${depth + 1}`, number(total.tried[depth], 0), number(total.accepted[depth], 0), number(total.ngram_accepted[depth] ?? 0, 0), percent(acceptance(total, depth)),
  ]);
  return scrolling(table(["", "reached", "accepted", "of them n-gram memory", "share"], rows), "Acceptance by depth");
}
