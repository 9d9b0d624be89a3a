// What is looked at, kept in the address so that a view can be shared.

export const RANGES = {
  "15m": { label: "15 minutes", seconds: 900, resolution: 10 },
  "1h": { label: "1 hour", seconds: 3600, resolution: 10 },
  "3h": { label: "3 hours", seconds: 10800, resolution: 60 },
  "6h": { label: "6 hours", seconds: 21600, resolution: 60 },
  "24h": { label: "24 hours", seconds: 86400, resolution: 600 },
  "7d": { label: "7 days", seconds: 604800, resolution: 3600 },
  "30d": { label: "30 days", seconds: 2592000, resolution: 3600 },
};

const DEFAULTS = { view: "health", range: "15m", model: "", segment: "", replica: "", version: "", other: "", kind: "", actor: "" };

export function read() {
  const query = new URLSearchParams(location.search);
  const state = {};
  for (const [name, value] of Object.entries(DEFAULTS)) state[name] = query.get(name) ?? value;
  if (!(state.range in RANGES)) state.range = DEFAULTS.range;
  return state;
}

export function address(state) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(DEFAULTS)) if (state[name] !== value) query.set(name, state[name]);
  const text = query.toString();
  return location.pathname + (text ? `?${text}` : "");
}
