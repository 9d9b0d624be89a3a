// What was promised against what was observed: on the diagonal both are the same. With a table that says it in numbers.

import { card, el, fill, say } from "./dom.js";
import { number, percent } from "./format.js";
import { table } from "./table.js";
import { colour, onTheme, palette } from "./theme.js";

const LEFT = 44;
const BOTTOM = 34;
const TOP = 8;

export class Reliability {
  constructor({ title, note }) {
    this.title = title;
    this.canvas = el("canvas", { class: "heat", role: "img", "aria-label": `${title}, loading` });
    this.legend = el("ul", { class: "legend" });
    this.rows = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, as a table` });
    this.details = el("details", { ontoggle: () => this.tabulate() }, el("summary", { text: "As a table" }), this.rows);
    this.said = el("p", { class: "note", text: "loading …" });
    this.node = card(title, note, this.canvas, this.legend, this.said, this.details);
    this.sources = null;
    this.sizes = new ResizeObserver(() => this.draw());
    this.sizes.observe(this.canvas);
    this.forget = onTheme(() => this.draw());
  }

  // `sources`: {label, points: [{nodes, promised, observed}]}, the last two as shares.
  show({ sources, empty }) {
    this.sources = sources;
    const known = sources.filter((one) => one.points.length);
    const told = known.map((one) => `${one.label} ${percent(mean(one.points, "promised"))} promised, ${percent(mean(one.points, "observed"))} observed`).join("; ");
    say(this.said, known.length ? `On average: ${told}.` : empty);
    this.canvas.setAttribute("aria-label", `${this.title}: ${known.length ? told : empty}`);
    this.draw();
    this.tabulate();
  }

  draw() {
    if (!this.sources) return;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.font = "11px sans-serif";
    const x = (share) => LEFT + share * (width - LEFT - 10);
    const y = (share) => TOP + (1 - share) * (height - TOP - BOTTOM);
    const line = (from, to) => {
      context.beginPath();
      context.moveTo(...from);
      context.lineTo(...to);
      context.stroke();
    };
    context.fillStyle = colour("quiet");
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      context.strokeStyle = colour("grid");
      line([x(share), y(0)], [x(share), y(1)]);
      line([x(0), y(share)], [x(1), y(share)]);
      context.textAlign = "right";
      context.fillText(percent(share, 0), LEFT - 5, y(share) + 4);
      context.textAlign = share === 1 ? "right" : "center";
      context.fillText(percent(share, 0), x(share), height - BOTTOM + 14);
    }
    context.textAlign = "center";
    context.fillText("promised (across), observed (up)", x(0.5), height - 4);
    context.strokeStyle = colour("quiet");
    context.setLineDash([4, 4]);
    line([x(0), y(0)], [x(1), y(1)]);
    context.setLineDash([]);
    fill(this.legend);
    this.sources.forEach((source, hue) => {
      const stroke = palette(hue);
      context.strokeStyle = context.fillStyle = stroke;
      context.lineWidth = 2;
      source.points.forEach((point, index) => {
        const last = source.points[index - 1];
        if (last) line([x(last.promised), y(last.observed)], [x(point.promised), y(point.observed)]);
        context.beginPath();
        if (hue) context.rect(x(point.promised) - 3.5, y(point.observed) - 3.5, 7, 7);
        else context.arc(x(point.promised), y(point.observed), 4, 0, 2 * Math.PI);
        context.fill();
      });
      context.lineWidth = 1;
      const swatch = el("span", { class: "swatch", "aria-hidden": "true" });
      swatch.style.borderTopColor = stroke;
      this.legend.append(el("li", {}, swatch, el("span", { text: `${source.label} (${hue ? "squares" : "dots"})` })));
    });
  }

  tabulate() {
    if (!this.details.open || !this.sources) return;
    const rows = this.sources.flatMap(({ label, points }) => points.map((point) => [label, percent(point.promised), percent(point.observed), number(point.nodes, 0)]));
    fill(this.rows, table(["source", "promised", "observed", "nodes"], rows));
  }

  destroy() {
    this.forget();
    this.sizes.disconnect();
  }
}

function mean(points, name) {
  const nodes = points.reduce((all, point) => all + point.nodes, 0);
  return points.reduce((all, point) => all + point.nodes * point[name], 0) / nodes;
}
