// A decision, said in words before it is made.

import { decide } from "./api.js";
import { el, say } from "./dom.js";

// `consequence` says what will happen; resolves with the written decision, or null when nothing was decided.
export function confirm({ title, consequence, path, seq, danger = false, verb }) {
  return new Promise((resolve) => {
    let written = null;
    const reason = el("input", { id: "reason", maxlength: "500", autocomplete: "off", placeholder: "by hand" });
    const trouble = el("p", { class: "error", role: "alert" });
    const go = el("button", { class: danger ? "danger" : "main", type: "submit", text: verb });
    const stop = el("button", { type: "button", text: "Cancel", onclick: () => dialog.close() });
    const form = el("form", { method: "dialog", onsubmit: submit },
      el("h2", { id: "dialog-title", text: title }), el("p", { text: consequence }),
      el("label", { for: "reason", text: "Reason, for the journal" }), reason, trouble,
      el("div", { class: "actions" }, stop, go));
    const dialog = el("dialog", { "aria-labelledby": "dialog-title" }, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(written);
    });
    document.body.append(dialog);
    dialog.showModal();
    stop.focus();

    async function submit(event) {
      event.preventDefault();
      go.disabled = true;
      say(trouble, "");
      try {
        written = await decide(path, { reason: reason.value.trim() || "by hand", expected_seq: seq });
        dialog.close();
      } catch (error) {
        say(trouble, refusal(error));
        go.disabled = error.code === "lost_race";
      }
    }
  });
}

function refusal(error) {
  if (error.code === "lost_race") {
    return "Somebody else decided first, so nothing was changed. Close this, look at what is true now, and decide again.";
  }
  if (error.code === "not_allowed_now") return `This isn't allowed now: ${error.message}`;
  return `Nothing was decided: ${error.message}`;
}
