// Counts over time, loaded once and then kept fresh at their end.

import { get } from "./api.js";
import { rowAt, sum } from "./ratios.js";
import { RANGES } from "./url.js";

class Group {
  constructor(by) {
    this.by = by;
    this.series = new Map();
  }

  merge(reply, start, end) {
    this.resolution = reply.resolution;
    this.bounds = reply.latency_bounds_us;
    this.start = start - (start % reply.resolution);
    this.end = end;
    for (const one of reply.series) {
      const key = JSON.stringify([one.segment, one.version, one.replica]);
      if (!this.series.has(key)) this.series.set(key, { segment: one.segment, version: one.version, replica: one.replica, rows: new Map() });
      const rows = this.series.get(key).rows;
      one.buckets.at.forEach((at, index) => rows.set(at, rowAt(one.buckets, index)));
    }
    for (const [key, one] of this.series) {
      for (const at of one.rows.keys()) if (at < this.start) one.rows.delete(at);
      if (!one.rows.size) this.series.delete(key);
    }
  }

  // Starts of all buckets of the range, with and without traffic.
  get grid() {
    const grid = [];
    for (let at = this.start; at < this.end; at += this.resolution) grid.push(at);
    return grid;
  }

  // Series by one name, what else they are grouped by summed; those with most steps first.
  named(name) {
    const found = new Map();
    for (const one of this.series.values()) {
      if (!found.has(one[name])) found.set(one[name], { name: one[name], rows: new Map() });
      const rows = found.get(one[name]).rows;
      for (const [at, row] of one.rows) rows.set(at, rows.has(at) ? sum([rows.get(at), row]) : row);
    }
    const all = [...found.values()];
    for (const one of all) one.total = sum(one.rows.values());
    return all.sort((a, b) => b.total.steps - a.total.steps || (a.name < b.name ? -1 : 1));
  }

  get whole() {
    const [one] = this.named("nothing");
    return one ?? { rows: new Map(), total: sum([]) };
  }
}

export class SeriesStore {
  constructor(state) {
    this.range = RANGES[state.range];
    this.filter = { segment: state.segment, replica: state.replica };
    this.groups = new Map();
  }

  // The whole range at first, later its end only: buckets that may have changed since.
  async load(by, signal) {
    const key = by.join();
    const end = Math.floor(Date.now() / 1000) + 1;
    const start = end - this.range.seconds;
    const known = this.groups.get(key);
    const from = known ? Math.max(start, known.end - 3 * this.range.resolution) : start;
    const asked = { start: Math.max(0, from), end, resolution: this.range.resolution, by, ...this.filter };
    const reply = await get("series", asked, signal);
    const group = known ?? new Group(by);
    group.merge(reply, start, end);
    this.groups.set(key, group);
    return group;
  }
}

export function column(grid, rows, value, missing = null) {
  return grid.map((at) => (rows.has(at) ? value(rows.get(at)) : missing));
}
