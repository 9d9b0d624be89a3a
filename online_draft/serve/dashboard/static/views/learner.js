// What is the learner doing?

import { get } from "../js/api.js";
import { Chart } from "../js/chart.js";
import { card, el, figures, fill, wide } from "../js/dom.js";
import { ago, duration, fixed, number, percent } from "../js/format.js";
import { ratio } from "../js/ratios.js";
import { scrolling, table } from "../js/table.js";

const STATES = ["training", "evaluating", "proposing", "yielding", "waiting", "paused"];
const WORDS = {
  training: "It learns", evaluating: "It compares its candidate with the champion on held-out records", proposing: "It publishes a candidate",
  yielding: "It makes way for requests", waiting: "It has nothing to do", paused: "It is paused",
};
const KEPT = 1800;
// States, loss and pace since the page was opened; the service keeps no history of them.
const seen = [];

export const learner = { id: "learner", title: "Learner", question: "What is the learner doing?", mount };

export function remember(status) {
  const one = status.learner;
  if (!one) return;
  seen.push({ at: Math.floor(Date.now() / 1000), state: STATES.indexOf(one.state), loss: one.loss, state_ms: one.state_ms, tokens: one.tokens });
  if (seen.length > KEPT) seen.shift();
}

export function forget() {
  seen.length = 0;
}

function mount(root, app) {
  const head = figures(["state", "since", "steps", "loss", "tokens / s of training", "idle time used", "looks", "held-out τ"]);
  const shares = el("div", {});
  const states = new Chart({ title: "States", room: 84, note: "Since this page was opened.", steps: true, top: STATES.length - 1, format: (value) => STATES[Math.round(value)] ?? "" });
  const loss = new Chart({ title: "Loss", note: "Smoothed; since this page was opened.", format: (value) => fixed(value, 3), floor: null });
  const judged = new Chart({ title: "Held-out τ of what was proposed", note: "From the journal; candidate and champion on the same records.", wide: true, format: (value) => fixed(value, 2), floor: null });
  const replay = el("div", {});
  const books = el("div", {});
  fill(root, el("div", { class: "cards" }, wide(card("Now", null, head.node, shares)), states.node, loss.node, judged.node, wide(card("Replay by segment", "Records kept to learn from and to judge by.", replay)), wide(card("The books", "Where every record is; integers.", books))));

  function take(status) {
    const one = status.learner;
    if (!one) {
      app.answer(status.redis_error ? `Redis is away: ${status.redis_error}` : "It says nothing: it isn't enabled, or has just started.", "quiet");
      for (const chart of [states, loss]) chart.show({ at: [], lines: [], empty: "the learner says nothing" });
      return;
    }
    app.answer(`${WORDS[one.state] ?? one.state}${one.reason ? `: ${one.reason}` : ""}.`);
    const times = one.state_ms ?? {};
    const worked = STATES.slice(0, 3).reduce((all, state) => all + (times[state] ?? 0), 0);
    const able = worked + (times.waiting ?? 0);
    head.set({
      state: one.state, since: ago(one.state_since_ms), steps: number(one.steps, 0), loss: fixed(one.loss, 3),
      "tokens / s of training": number(ratio(one.tokens * 1000, times.training ?? 0), 0), "idle time used": percent(ratio(worked, able), 0),
      looks: number(one.looks, 0), "held-out τ": heldOut(one.last_look),
    });
    const all = STATES.reduce((total, state) => total + (times[state] ?? 0), 0);
    fill(shares, scrolling(table(["state", "time since its start", "share"], STATES.filter((state) => times[state]).map((state) => [state, duration(times[state] / 1000), percent(ratio(times[state], all))])), "Time by state"));
    const at = seen.map((point) => point.at);
    const ends = [at[0], Math.max(at.at(-1), at[0] + 120)];
    states.show({ at, ends, lines: [{ label: "state", values: seen.map((point) => (point.state < 0 ? null : point.state)) }] });
    loss.show({ at, ends, lines: [{ label: "loss", values: seen.map((point) => point.loss) }], empty: "no update yet" });
    fill(replay, replayTable(one.feed?.segments ?? {}));
  }

  async function refresh() {
    const start = Math.floor(Date.now() / 1000) - app.store.range.seconds;
    const [decisions, found] = await Promise.all([
      get("journal", { start, kind: ["propose"], limit: 500 }, app.signal),
      get("buffer", {}, app.signal).catch((error) => ({ error: error.message })),
    ]);
    const shown = decisions.decisions.filter((one) => Number.isFinite(one.numbers.tau_candidate));
    judged.show({ ends: [start, start + app.store.range.seconds], at: shown.map((one) => one.at_ms / 1000), empty: "nothing was proposed in this range", lines: [
      { label: "candidate", values: shown.map((one) => one.numbers.tau_candidate) },
      { label: "champion", values: shown.map((one) => one.numbers.tau_champion ?? null), dash: true },
    ] });
    fill(books, bookTable(found));
    if (app.status()) take(app.status());
  }

  return { refresh, take, destroy: () => [states, loss, judged].forEach((chart) => chart.destroy()) };
}

function heldOut(look) {
  if (!look) return "–";
  return `${fixed(look.tau_candidate, 2)} / ${fixed(look.tau_champion, 2)}`;
}

function replayTable(segments) {
  const names = Object.keys(segments).sort();
  if (!names.length) return el("p", { class: "note", text: "No records are kept yet." });
  const rooms = [...new Set(names.flatMap((name) => Object.keys(segments[name])))];
  const rows = names.map((name) => [name, ...rooms.map((room) => number(segments[name][room] ?? 0, 0))]);
  return scrolling(table(["segment", ...rooms.map((room) => room.replaceAll("_", " "))], rows), "Replay by segment");
}

function bookTable(found) {
  if (found.error) return el("p", { class: "note", text: `The books can't be read: ${found.error}` });
  const { balanced, bytes: _bytes, tokens: _tokens, ...writers } = found.writers;
  const rows = Object.entries(writers).map(([name, count]) => [name.replaceAll("_", " "), number(count, 0)]);
  rows.push(["balanced", balanced ? "yes" : "no"], ["in the stream", number(found.stream.entries, 0)], ["not read yet", number(found.stream.lag, 0)]);
  if (found.reader) rows.push(["lost in a crash", number(found.reader.lost_in_crash, 0)]);
  if (found.reservoirs) rows.push(["kept to learn from", number(found.reservoirs.training, 0)], ["kept to judge by", number(found.reservoirs.held_out, 0)]);
  return scrolling(table(["", "records"], rows), "The books");
}
