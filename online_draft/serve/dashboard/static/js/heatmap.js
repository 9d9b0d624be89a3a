// Acceptance by depth over time: darker or lighter cells, a line that says what is under the pointer, a table.

import { card, el, fill, say } from "./dom.js";
import { clock, percent } from "./format.js";
import { table } from "./table.js";
import { colour, onTheme } from "./theme.js";

const LEFT = 34;
const BOTTOM = 20;
const SHADES = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

export class HeatMap {
  constructor({ title, note }) {
    this.title = title;
    this.canvas = el("canvas", { class: "heat", role: "img", "aria-label": `${title}, loading` });
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.said = el("span", { text: "loading …" });
    this.key = el("canvas", { width: "140", height: "12", "aria-hidden": "true" });
    this.rows = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, as a table` });
    this.details = el("details", { ontoggle: () => this.tabulate() }, el("summary", { text: "As a table" }), this.rows);
    const scale = el("div", { class: "scale" }, el("span", { text: "0 %" }), this.key, el("span", { text: "100 %" }), this.said);
    this.node = card(title, note, this.canvas, scale, this.details);
    this.node.classList.add("wide");
    this.data = null;
    this.sizes = new ResizeObserver(() => this.draw());
    this.sizes.observe(this.canvas);
    this.forget = onTheme(() => this.draw());
    const context = this.key.getContext("2d");
    for (let x = 0; x < 140; x++) {
      context.fillStyle = shade(x / 139);
      context.fillRect(x, 0, 1, 12);
    }
  }

  // `values[depth][bucket]`: a share or null.
  show({ at, values, tried, empty }) {
    this.data = { at, values, tried };
    say(this.said, values.length ? "point at a cell" : empty);
    const newest = values.map((row, depth) => `depth ${depth + 1} ${percent(row.findLast((value) => value !== null) ?? null, 0)}`);
    this.canvas.setAttribute("aria-label", values.length ? `${this.title}: newest ${newest.join(", ")}` : `${this.title}: ${empty}`);
    this.draw();
    this.tabulate();
  }

  draw() {
    if (!this.data) return;
    const { at, values } = this.data;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.font = "11px sans-serif";
    const [cellWidth, cellHeight] = this.cell(width, height);
    context.fillStyle = colour("grid");
    context.fillRect(LEFT, 0, width - LEFT, height - BOTTOM);
    values.forEach((row, depth) => {
      row.forEach((value, bucket) => {
        if (value === null) return;
        context.fillStyle = shade(value);
        context.fillRect(LEFT + bucket * cellWidth, depth * cellHeight, Math.ceil(cellWidth), Math.ceil(cellHeight) - 1);
      });
      context.fillStyle = colour("quiet");
      context.fillText(String(depth + 1), 12, (depth + 0.5) * cellHeight + 4);
    });
    context.fillStyle = colour("quiet");
    for (const part of [0, 0.5]) {
      const bucket = Math.floor(part * at.length);
      if (at[bucket]) context.fillText(clock(1000 * at[bucket]).slice(5, 16), LEFT + bucket * cellWidth, height - 5);
    }
  }

  cell(width, height) {
    return [(width - LEFT) / Math.max(1, this.data.at.length), (height - BOTTOM) / Math.max(1, this.data.values.length)];
  }

  point(event) {
    if (!this.data?.values.length) return;
    const [cellWidth, cellHeight] = this.cell(this.canvas.clientWidth, this.canvas.clientHeight);
    const bucket = Math.floor((event.offsetX - LEFT) / cellWidth);
    const depth = Math.floor(event.offsetY / cellHeight);
    const value = this.data.values[depth]?.[bucket];
    if (value === undefined || bucket < 0) return;
    const shown = value === null ? "nothing drafted" : `${percent(value)} of ${this.data.tried[depth][bucket]}`;
    say(this.said, `${clock(1000 * this.data.at[bucket])}, depth ${depth + 1}: ${shown}`);
  }

  tabulate() {
    if (!this.details.open || !this.data) return;
    const { at, values } = this.data;
    const rows = [];
    for (let bucket = at.length - 1; bucket >= 0 && rows.length < 200; bucket--) {
      if (values.some((row) => row[bucket] !== null)) rows.push([clock(1000 * at[bucket]), ...values.map((row) => percent(row[bucket]))]);
    }
    fill(this.rows, table(["time", ...values.map((_, depth) => `depth ${depth + 1}`)], rows));
  }

  destroy() {
    this.forget();
    this.sizes.disconnect();
  }
}

function shade(value) {
  const place = Math.max(0, Math.min(1, value)) * (SHADES.length - 1);
  const low = Math.min(SHADES.length - 2, Math.floor(place));
  const mixed = SHADES[low].map((part, index) => Math.round(part + (place - low) * (SHADES[low + 1][index] - part)));
  return `rgb(${mixed.join()})`;
}
