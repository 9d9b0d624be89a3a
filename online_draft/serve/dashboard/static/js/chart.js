// Lines over time with bands, marks, a legend of values and a table that says the same.

import uPlot from "../vendor/uplot.js";
import { card, el, fill, say } from "./dom.js";
import { clock } from "./format.js";
import { table } from "./table.js";
import { colour, onTheme, palette } from "./theme.js";

const HEIGHT = 220;
const MOST_ROWS = 200;
const MARK_KINDS = { promote: "good", roll_back: "bad", canary: "accent" };

export class Chart {
  // `format` shows a value, `tick` one at the axis; `floor` is where the axis starts (null: at the lowest value).
  constructor({ title, note, format, tick = format, floor = 0, top = null, wide = false, steps = false, room = 62 }) {
    Object.assign(this, { title, format, tick, floor, top, room });
    this.paths = steps ? uPlot.paths.stepped({ align: 1 }) : undefined;
    this.plot = el("div", { class: "chart", role: "img", "aria-label": `${title}, loading` });
    this.blank = el("p", { class: "empty loading", text: "loading …" });
    this.plot.append(this.blank);
    this.legend = el("ul", { class: "legend" });
    this.rows = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, as a table` });
    this.details = el("details", { ontoggle: () => this.tabulate() }, el("summary", { text: "As a table" }), this.rows);
    this.node = card(title, note, this.plot, this.legend, this.details);
    if (wide) this.node.classList.add("wide");
    this.data = null;
    this.shape = "";
    this.sizes = new ResizeObserver(() => this.uplot?.setSize({ width: this.plot.clientWidth, height: HEIGHT }));
    this.sizes.observe(this.plot);
    this.forget = onTheme(() => this.rebuild());
  }

  // `lines`: {label, values, low?, high?, dash?, hue?}; `marks`: {at, label, kind}; `ends` of the time axis, if
  // they aren't those of `at`.
  show({ at, lines, marks = [], ends = null, empty = "no traffic in this range" }) {
    this.data = { at, lines, marks, ends };
    const blank = !lines.some((line) => line.values.some((value) => value !== null));
    this.blank.hidden = !blank;
    this.blank.className = "empty";
    say(this.blank, empty);
    const shape = JSON.stringify(lines.map((line) => [line.label, !!line.low, line.hue]));
    if (shape !== this.shape || !this.uplot) {
      this.shape = shape;
      this.rebuild();
    } else {
      this.uplot.setData(this.columns());
    }
    this.read(null);
    const newest = lines.map((line) => `${line.label} ${this.format(last(line.values))}`).join(", ");
    this.plot.setAttribute("aria-label", blank ? `${this.title}: ${empty}` : `${this.title}: ${newest}`.slice(0, 400));
    if (this.details.open) this.tabulate();
  }

  columns() {
    const { at, lines } = this.data;
    return [at, ...lines.flatMap((line) => [line.values, ...(line.low ? [line.high, line.low] : [])])];
  }

  rebuild() {
    if (!this.data) return;
    this.uplot?.destroy();
    const series = [{}];
    const bands = [];
    this.data.lines.forEach((line, index) => {
      const stroke = palette(line.hue ?? index);
      series.push({ stroke, width: 2, dash: line.dash ? [6, 4] : undefined, spanGaps: true, paths: this.paths, points: { size: 5, filter: alone } });
      if (!line.low) return;
      const fillColour = stroke.replace("rgb(", "rgba(").replace(")", ", 0.16)");
      series.push({ stroke: "transparent", width: 0, spanGaps: true, points: { show: false } });
      series.push({ stroke: "transparent", width: 0, spanGaps: true, points: { show: false } });
      bands.push({ series: [series.length - 2, series.length - 1], fill: fillColour });
    });
    const axis = { stroke: colour("quiet"), grid: { stroke: colour("grid"), width: 1 }, ticks: { stroke: colour("grid") } };
    this.uplot = new uPlot({
      width: this.plot.clientWidth || 300, height: HEIGHT, series, bands,
      legend: { show: false },
      cursor: { sync: { key: "time" }, points: { size: 6 }, drag: { x: false, y: false } },
      scales: { x: { time: true, range: (_, low, high) => this.times(low, high) }, y: { range: (_, low, high) => this.span(low, high) } },
      axes: [{ ...axis, size: 34, space: 70, values: times }, { ...axis, size: this.room, values: (_, ticks) => ticks.map((tick) => this.tick(tick)) }],
      hooks: { draw: [(plot) => this.drawMarks(plot)], setCursor: [(plot) => this.read(plot.cursor.idx)] },
    }, this.columns(), this.plot);
    fill(this.legend, this.data.lines.map((line, index) => el("li", {}, swatch(line, index), el("span", { text: line.label }), el("output", {}))));
    this.read(null);
  }

  times(low, high) {
    if (this.data.ends) return this.data.ends;
    return low === null ? [0, 1] : [low, Math.max(high, low + 30)];
  }

  span(low, high) {
    const bottom = this.floor ?? low ?? 0;
    const top = this.top ?? Math.max(high ?? 0, bottom);
    const room = top - bottom || Math.abs(top) || 1;
    return [this.floor === null ? bottom - 0.1 * room : bottom, this.top ?? bottom + 1.1 * room];
  }

  // Values at the cursor, else the newest ones.
  read(index) {
    if (!this.data) return;
    const outputs = this.legend.querySelectorAll("output");
    this.data.lines.forEach((line, number) => {
      const value = index === null || index === undefined ? last(line.values) : line.values[index];
      if (outputs[number]) say(outputs[number], this.format(value));
    });
  }

  drawMarks(plot) {
    const context = plot.ctx;
    const { left, top, width, height } = plot.bbox;
    context.save();
    context.font = `${11 * devicePixelRatio}px sans-serif`;
    context.textAlign = "left";
    let free = Infinity;
    for (const mark of this.data.marks.toReversed()) {
      const x = plot.valToPos(mark.at, "x", true);
      if (x < left || x > left + width) continue;
      context.strokeStyle = context.fillStyle = colour(MARK_KINDS[mark.kind] ?? "quiet");
      context.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
      context.beginPath();
      context.moveTo(x, top);
      context.lineTo(x, top + height);
      context.stroke();
      const wanted = context.measureText(mark.label).width;
      const from = x + wanted > left + width ? x - wanted - 4 * devicePixelRatio : x + 3 * devicePixelRatio;
      if (from + wanted > free) continue;
      context.fillText(mark.label, from, top + 11 * devicePixelRatio);
      free = from - 8 * devicePixelRatio;
    }
    context.restore();
  }

  tabulate() {
    if (!this.details.open || !this.data) return;
    const { at, lines, marks } = this.data;
    const stride = Math.max(1, Math.ceil(at.length / MOST_ROWS));
    const rows = [];
    for (let index = at.length - 1; index >= 0; index -= stride) {
      if (lines.some((line) => line.values[index] !== null)) {
        rows.push([clock(1000 * at[index]), ...lines.map((line) => interval(line, index, this.format))]);
      }
    }
    const noted = marks.map((mark) => `${clock(1000 * mark.at)} ${mark.label}`).join("; ");
    fill(this.rows, table(["time", ...lines.map((line) => line.label)], rows, { caption: noted && `Marks: ${noted}` }));
  }

  destroy() {
    this.forget();
    this.sizes.disconnect();
    this.uplot?.destroy();
  }
}

function swatch(line, index) {
  const node = el("span", { class: line.dash ? "swatch dashed" : "swatch", "aria-hidden": "true" });
  node.style.borderTopColor = palette(line.hue ?? index);
  return node;
}

function interval(line, index, format) {
  const value = format(line.values[index]);
  return line.low && line.low[index] !== null ? `${value} (${format(line.low[index])} to ${format(line.high[index])})` : value;
}

// Points without neighbours, which no line shows; all of them where there is room.
function alone(plot, number, show) {
  if (show) return null;
  const values = plot.data[number];
  const found = [];
  for (let index = 0; index < values.length; index++) {
    if (values[index] !== null && (values[index - 1] ?? null) === null && (values[index + 1] ?? null) === null) found.push(index);
  }
  return found;
}

function last(values) {
  for (let index = values.length - 1; index >= 0; index--) if (values[index] !== null) return values[index];
  return null;
}

const two = (value) => String(value).padStart(2, "0");

function times(_plot, ticks, _axis, _space, step) {
  return ticks.map((tick) => {
    const at = new Date(1000 * tick);
    if (step >= 86400 || (at.getHours() === 0 && at.getMinutes() === 0 && at.getSeconds() === 0)) return `${two(at.getMonth() + 1)}-${two(at.getDate())}`;
    return `${two(at.getHours())}:${two(at.getMinutes())}${step < 60 ? `:${two(at.getSeconds())}` : ""}`;
  });
}
