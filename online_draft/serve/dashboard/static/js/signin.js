// The form that takes the admin key.

import { signIn } from "./api.js";
import { el, say } from "./dom.js";

export function signInForm(then, message) {
  const key = el("input", { id: "key", type: "password", autocomplete: "current-password", required: true, maxlength: "512" });
  const trouble = el("p", { class: "error", role: "alert", text: message });
  const go = el("button", { class: "main", type: "submit", text: "Sign in" });
  const form = el("form", { class: "signin" },
    el("h1", { text: "online-draft" }),
    el("p", { text: "Sign in with the admin key of this service." }),
    el("input", { type: "text", autocomplete: "username", value: "admin", hidden: true, "aria-hidden": "true", tabindex: "-1" }),
    el("label", { for: "key", text: "Admin key" }), key, go, trouble);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    say(trouble, "");
    try {
      then(await signIn(key.value.trim()));
    } catch (error) {
      say(trouble, error.status === 401 ? "This is not a valid admin key." : error.message);
      go.disabled = false;
      key.select();
    }
  });
  return el("main", {}, form);
}
