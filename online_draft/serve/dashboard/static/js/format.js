// Numbers and times as people read them.

const BLANK = "–";

export function number(value, digits = 2) {
  if (value === null || value === undefined || !Number.isFinite(value)) return BLANK;
  return value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: 0 });
}

export function fixed(value, digits = 2) {
  return Number.isFinite(value) && value !== null ? value.toFixed(digits) : BLANK;
}

export function percent(value, digits = 1) {
  return Number.isFinite(value) && value !== null ? `${(100 * value).toFixed(digits)} %` : BLANK;
}

export function milliseconds(value) {
  if (!Number.isFinite(value) || value === null) return BLANK;
  return value >= 1000 ? `${(value / 1000).toFixed(2)} s` : `${value.toFixed(value < 10 ? 1 : 0)} ms`;
}

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return BLANK;
  const parts = [[86400, "d"], [3600, "h"], [60, "min"]];
  for (const [size, unit] of parts) if (seconds >= size) return `${(seconds / size).toFixed(seconds / size < 10 ? 1 : 0)} ${unit}`;
  return `${Math.round(seconds)} s`;
}

export function clock(ms) {
  if (!ms) return BLANK;
  const at = new Date(ms);
  const two = (value) => String(value).padStart(2, "0");
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${day} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

export function ago(ms) {
  return ms ? `${duration(Math.max(0, (Date.now() - ms) / 1000))} ago` : BLANK;
}

export function bytes(value) {
  if (!Number.isFinite(value)) return BLANK;
  return value >= 1e6 ? `${(value / 1e6).toFixed(1)} MB` : `${(value / 1e3).toFixed(1)} kB`;
}

export function plural(count, noun) {
  return `${number(count, 0)} ${noun}${count === 1 ? "" : "s"}`;
}
