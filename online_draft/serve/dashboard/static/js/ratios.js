// Counts become ratios here, at the last moment.

const LISTS = ["tried", "accepted", "ngram_accepted", "first_token", "inter_token"];
const TOTALS = ["requests", "prompt_tokens", "tokens", "steps", "committed", "drafted", "ngram_drafted"];

export function emptyRow() {
  const row = { errors: {} };
  for (const name of TOTALS) row[name] = 0;
  for (const name of LISTS) row[name] = [];
  return row;
}

export function rowAt(columns, index) {
  const row = { errors: columns.errors[index] };
  for (const name of [...TOTALS, ...LISTS]) row[name] = columns[name][index];
  return row;
}

export function sum(rows) {
  const total = emptyRow();
  for (const row of rows) {
    for (const name of TOTALS) total[name] += row[name];
    for (const name of LISTS) row[name].forEach((count, at) => { total[name][at] = (total[name][at] ?? 0) + count; });
    for (const [kind, count] of Object.entries(row.errors)) total.errors[kind] = (total.errors[kind] ?? 0) + count;
  }
  return total;
}

export const ratio = (part, whole) => (whole ? part / whole : null);
export const tau = (row) => ratio(row.committed, row.steps);
export const errors = (row) => Object.values(row.errors).reduce((all, count) => all + count, 0);
export const acceptance = (row, depth) => ratio(row.accepted[depth] ?? 0, row.tried[depth] ?? 0);
export const treeSize = (row) => ratio(row.drafted, row.steps);

// Where the committed tokens of requests came from: of the rest the target itself is the source.
export function sources(row) {
  const accepted = row.accepted.reduce((all, count) => all + count, 0);
  const ngram = row.ngram_accepted.reduce((all, count) => all + count, 0);
  return { heads: accepted - ngram, ngram, root: Math.max(0, row.committed - accepted) };
}

// A quantile of a latency histogram in ms, interpolated within its bucket on a logarithmic scale.
export function quantile(histogram, bounds_us, share) {
  const all = histogram.reduce((total, count) => total + count, 0);
  if (!all) return null;
  let left = share * all;
  for (let bucket = 0; bucket < histogram.length; bucket++) {
    const count = histogram[bucket];
    if (count && left <= count) {
      if (bucket >= bounds_us.length) return bounds_us.at(-1) / 1000;
      const high = bounds_us[bucket];
      const low = bucket ? bounds_us[bucket - 1] : high / 1.5;
      return (low * (high / low) ** (left / count)) / 1000;
    }
    left -= count;
  }
  return bounds_us[Math.min(histogram.length, bounds_us.length) - 1] / 1000;
}

// Rate of a bucket of drift samples with its 95 % interval; null bounds where one sample says nothing of spread.
export function driftRate(columns, index) {
  const [hits, tried, samples] = [columns.hits[index], columns.tried[index], columns.samples[index]];
  if (!tried) return { rate: null, low: null, high: null };
  const rate = hits / tried;
  if (samples < 2) return { rate, low: null, high: null };
  const squares = columns.hits_squared[index] - 2 * rate * columns.hits_tried[index] + rate * rate * columns.tried_squared[index];
  const error = Math.sqrt(Math.max(0, (samples / (samples - 1)) * squares)) / tried;
  return { rate, low: Math.max(0, rate - 1.96 * error), high: Math.min(1, rate + 1.96 * error) };
}
