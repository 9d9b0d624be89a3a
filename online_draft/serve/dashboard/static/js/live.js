// Events of the service, and whether they still come.

import { get, url } from "./api.js";

const SILENT_MS = 7000;

export class Live {
  constructor(onStatus, onTick, onLink) {
    this.handlers = { onStatus, onTick, onLink };
    this.link = "connecting";
    this.heard = Date.now();
    this.watch = setInterval(() => this.look(), 1000);
    this.open();
  }

  open() {
    this.source = new EventSource(url("api/events"));
    this.source.addEventListener("status", (event) => {
      this.beat();
      this.handlers.onStatus(JSON.parse(event.data));
      this.handlers.onTick();
    });
    this.source.addEventListener("same", () => {
      this.beat();
      this.handlers.onTick();
    });
  }

  beat() {
    this.heard = Date.now();
    this.tell("live");
  }

  look() {
    if (Date.now() - this.heard <= SILENT_MS) return;
    this.tell("gone");
    // After some failures a browser gives a stream up for good.
    if (this.source.readyState !== EventSource.CLOSED) return;
    this.open();
    get("models").catch(() => {});  // tells whether it was the session that ended
  }

  tell(link) {
    if (link === this.link) return;
    this.link = link;
    this.handlers.onLink(link);
  }

  close() {
    clearInterval(this.watch);
    this.source.close();
  }
}
