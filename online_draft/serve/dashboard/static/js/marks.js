// Decisions as marks on a chart.

import { get } from "./api.js";

const WORDS = { promote: "promoted", roll_back: "rolled back to", canary: "canary" };

export async function marks(store, signal) {
  const start = Math.floor(Date.now() / 1000) - store.range.seconds;
  const found = await get("journal", { start, kind: Object.keys(WORDS), limit: 200 }, signal);
  return found.decisions.map((one) => ({ at: one.at_ms / 1000, kind: one.kind, label: `${WORDS[one.kind]} ${short(one.version)}` }));
}

export function short(version) {
  if (!version) return "–";
  return version.length > 14 ? `${version.slice(0, 13)}…` : version;
}
