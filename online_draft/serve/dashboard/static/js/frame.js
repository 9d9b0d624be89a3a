// What stands around every view: pickers, navigation, the state of the connection.

import { choose, get, signOut } from "./api.js";
import { el, fill, say } from "./dom.js";
import { Live } from "./live.js";
import { SeriesStore } from "./series.js";
import * as theme from "./theme.js";
import { RANGES, address, read } from "./url.js";
import { VIEWS } from "../views/all.js";

const LINKS = { connecting: ["connecting …", "state"], live: ["live", "state live"], gone: ["disconnected", "state gone"] };

export class Frame {
  constructor(root, who, onSignOut) {
    this.state = read();
    choose(this.state.model);
    this.status = null;
    this.names = { segment: new Set(), replica: new Set() };
    this.abort = new AbortController();
    this.build(root, who, onSignOut);
    this.onPop = () => this.go(read(), false);
    addEventListener("popstate", this.onPop);
    this.listen();
    this.loadModels();
    this.open();
  }

  build(root, who, onSignOut) {
    this.link = el("span", { class: "state", role: "status", text: "connecting …" });
    this.pickers = { range: picker("Range"), model: picker("Model"), segment: picker("Segment"), replica: picker("Replica") };
    const look = el("button", { type: "button" });
    const sayTheme = () => say(look, `Theme: ${theme.theme()}`);
    look.addEventListener("click", () => { theme.nextTheme(); sayTheme(); });
    sayTheme();
    const leave = el("button", { type: "button", text: "Sign out", onclick: async () => { await signOut().catch(() => {}); onSignOut(); } });
    fill(this.pickers.range.select, Object.entries(RANGES).map(([id, range]) => el("option", { value: id, text: range.label })));
    for (const [name, { select }] of Object.entries(this.pickers)) select.addEventListener("change", () => this.go({ ...this.state, [name]: select.value }));
    this.pickers.model.node.hidden = true;
    this.tabs = el("ul", {});
    this.main = el("main", { id: "main", tabindex: "-1" });
    fill(root,
      el("a", { class: "skip", href: "#main", text: "Skip to the view" }),
      el("header", {},
        el("div", { class: "bar" }, el("h1", { text: "online-draft" }), this.link, el("span", { class: "grow" }),
          ...Object.values(this.pickers).map(({ node }) => node), look, el("span", { class: "note", text: who.actor }), leave),
        el("nav", { "aria-label": "Views" }, this.tabs)),
      this.main);
  }

  listen() {
    this.live?.close();
    this.live = new Live((status) => this.take(status), () => this.refresh(), (link) => this.showLink(link));
    this.loadNames();
  }

  // Another model is another service to this page.
  changeModel() {
    choose(this.state.model);
    this.status = null;
    this.names = { segment: new Set(), replica: new Set() };
    this.listen();
  }

  // Goes to another state: keeps it in the address and opens the view anew.
  go(state, push = true) {
    const other = state.model !== this.state.model;
    this.state = other && push ? { ...state, segment: "", replica: "", version: "", other: "" } : state;
    if (other) this.changeModel();
    if (push) history.pushState(null, "", address(this.state));
    this.open();
  }

  open() {
    this.abort.abort();
    this.abort = new AbortController();
    this.view?.destroy?.();
    const known = VIEWS.find((view) => view.id === this.state.view) ?? VIEWS[0];
    this.store = new SeriesStore(this.state);
    document.title = `${known.title} – online-draft`;
    fill(this.tabs, VIEWS.map((view) => el("li", {}, el("a", {
      href: address({ ...this.state, view: view.id }), text: view.title, "aria-current": view === known ? "page" : null,
      onclick: (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        this.go({ ...this.state, view: view.id });
        this.main.focus({ preventScroll: true });
      },
    }))));
    this.offer();
    this.trouble = el("p", { class: "error", role: "alert", hidden: true });
    const answer = el("p", { class: "answer loading", text: "looking …", "aria-live": "polite" });
    const body = el("div", {});
    fill(this.main, el("div", { class: "question" }, el("h2", { text: known.question }), answer), this.trouble, body);
    this.view = known.mount(body, {
      state: this.state, store: this.store, signal: this.abort.signal,
      answer: (text, kind = "") => say(answer, text, `answer ${kind}`.trim()),
      go: (changes) => this.go({ ...this.state, ...changes }),
      replace: (changes) => { Object.assign(this.state, changes); history.replaceState(null, "", address(this.state)); },
      status: () => this.status,
      refresh: () => this.refresh(true),
    });
    this.due = 0;
    this.refresh(true);
  }

  // Asks the view to show what is true now; one question at a time, coarse buckets more rarely.
  async refresh(now = false) {
    if (!now && (this.busy === this.view || Date.now() < this.due)) return;
    const view = this.view;
    this.busy = view;
    this.due = Date.now() + Math.min(15000, 100 * this.store.range.resolution);
    try {
      await view.refresh();
      if (view === this.view) this.trouble.hidden = true;
    } catch (error) {
      if (error.name === "AbortError" || view !== this.view) return;
      this.trouble.hidden = false;
      say(this.trouble, `Not up to date: ${error.message}`);
      this.due = 0;
    } finally {
      if (this.busy === view) this.busy = null;
    }
  }

  take(status) {
    this.status = status;
    for (const replica of status.replicas ?? []) this.names.replica.add(replica.replica);
    for (const drift of status.drift ?? []) this.names.segment.add(drift.segment);
    this.offer();
    this.view?.take?.(status);
  }

  async loadNames() {
    try {
      const names = this.names;
      const now = Math.floor(Date.now() / 1000) + 1;
      const found = await get("series", { start: now - 86400, end: now, resolution: 3600, by: ["segment", "replica"] });
      for (const one of found.series) {
        names.segment.add(one.segment);
        names.replica.add(one.replica);
      }
      this.offer();
    } catch { /* the view says what is wrong */ }
  }

  async loadModels() {
    const { models } = await get("models").catch(() => ({ models: [] }));
    const { select, node } = this.pickers.model;
    fill(select, models.map((one, place) => el("option", { value: place ? one.name : "", text: one.name })));
    select.value = this.state.model;
    node.hidden = models.length < 2;
  }

  offer() {
    this.pickers.range.select.value = this.state.range;
    this.pickers.model.select.value = this.state.model;
    for (const name of ["segment", "replica"]) {
      const { select } = this.pickers[name];
      const names = [...new Set([...this.names[name], this.state[name]])].filter(Boolean).sort();
      const offered = JSON.stringify(names);
      if (select.dataset.offered !== offered) {
        fill(select, el("option", { value: "", text: "all" }), names.map((one) => el("option", { value: one, text: one })));
        select.dataset.offered = offered;
      }
      select.value = this.state[name];
    }
  }

  showLink(link) {
    const [text, kind] = LINKS[link];
    say(this.link, text, kind);
  }

  destroy() {
    removeEventListener("popstate", this.onPop);
    this.abort.abort();
    this.live.close();
    this.view?.destroy?.();
  }
}

function picker(label) {
  const select = el("select", {});
  return { select, node: el("label", {}, el("span", { text: label }), select) };
}
