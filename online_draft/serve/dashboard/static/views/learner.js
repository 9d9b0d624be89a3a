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
const NO_HISTORY = "no history of this range: control notes it while it runs";

export const learner = { id: "learner", title: "Learner", question: "What is the learner doing?", mount };

function mount(root, app) {
  const head = figures(["state", "since", "steps", "loss", "tokens / s of training", "idle time used", "looks", "held-out τ"]);
  const shares = el("div", {});
  const charts = {
    states: new Chart({ title: "Time by state", note: "What part of its time it spent how.", top: 1, format: (value) => percent(value, 0) }),
    loss: new Chart({ title: "Loss", note: "Smoothed.", format: (value) => fixed(value, 3), floor: null }),
    looks: new Chart({ title: "Held-out τ, last look", note: "Candidate and champion on the same records.", format: (value) => fixed(value, 2), floor: null }),
    pace: new Chart({ title: "Tokens learnt per second", note: "Over all time, not only that of training.", format: (value) => number(value, 0) }),
  };
  const judged = new Chart({ title: "Held-out τ of what was proposed", note: "From the journal; candidate and champion on the same records.", wide: true, format: (value) => fixed(value, 2), floor: null });
  const replay = el("div", {});
  const books = el("div", {});
  fill(root, el("div", { class: "cards" }, wide(card("Now", null, head.node, shares)), ...Object.values(charts).map((chart) => chart.node), judged.node, wide(card("Replay by segment", "Records kept to learn from and to judge by.", replay)), wide(card("The books", "Where every record is; integers.", books))));

  function take(status) {
    const one = status.learner;
    if (!one) {
      app.answer(status.redis_error ? `Redis is away: ${status.redis_error}` : "It says nothing: it isn't enabled, or has just started.", "quiet");
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
    fill(replay, replayTable(one.feed?.segments ?? {}));
  }

  async function refresh() {
    const start = Math.floor(Date.now() / 1000) - app.store.range.seconds;
    const [history, decisions, found] = await Promise.all([
      get("learner/history", { start, end: start + app.store.range.seconds + 1 }, app.signal).catch(() => ({ readings: [] })),
      get("journal", { start, kind: ["propose"], limit: 500 }, app.signal),
      get("buffer", {}, app.signal).catch((error) => ({ error: error.message })),
    ]);
    showHistory(charts, history, [start, start + app.store.range.seconds]);
    const shown = decisions.decisions.filter((one) => Number.isFinite(one.numbers.tau_candidate));
    judged.show({ ends: [start, start + app.store.range.seconds], at: shown.map((one) => one.at_ms / 1000), empty: "nothing was proposed in this range", lines: [
      { label: "candidate", values: shown.map((one) => one.numbers.tau_candidate) },
      { label: "champion", values: shown.map((one) => one.numbers.tau_champion ?? null), dash: true },
    ] });
    fill(books, bookTable(found));
    if (app.status()) take(app.status());
  }

  return { refresh, take, destroy: () => [judged, ...Object.values(charts)].forEach((chart) => chart.destroy()) };
}

// What changed between two readings; a learner that was started anew began to count anew.
function between(readings, anew, value) {
  return readings.slice(1).map((one, index) => value(one) - (anew[index] ? 0 : value(readings[index])));
}

function showHistory(charts, { readings }, ends) {
  const at = readings.map((one) => one.at);
  const spent = (one, state) => one.state_ms[state] ?? 0;
  const anew = readings.slice(1).map((one, index) => STATES.some((state) => spent(one, state) < spent(readings[index], state)));
  const times = Object.fromEntries(STATES.map((state) => [state, between(readings, anew, (one) => spent(one, state))]));
  const all = at.slice(1).map((_, index) => STATES.reduce((total, state) => total + times[state][index], 0));
  const empty = NO_HISTORY;
  const seen = STATES.filter((state) => times[state].some((ms) => ms > 0));
  charts.states.show({ at: at.slice(1), ends, empty, lines: seen.map((state) => ({ label: state, hue: STATES.indexOf(state), values: times[state].map((ms, index) => ratio(ms, all[index])) })) });
  charts.loss.show({ at, ends, empty, lines: [{ label: "loss", values: readings.map((one) => one.loss) }] });
  charts.looks.show({ at, ends, empty, lines: [
    { label: "candidate", values: readings.map((one) => one.tau_candidate) }, { label: "champion", values: readings.map((one) => one.tau_champion), dash: true },
  ] });
  const learnt = between(readings, [], (one) => one.tokens).map((count) => Math.max(0, count));  // kept over restarts, up to a checkpoint
  charts.pace.show({ at: at.slice(1), ends, empty, lines: [{ label: "tokens / s", values: learnt.map((count, index) => count / Math.max(1, at[index + 1] - at[index])) }] });
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
