// Starts the page: who is it, and what do they want to see?

import { onSignedOut, session } from "./api.js";
import { el, fill } from "./dom.js";
import { Frame } from "./frame.js";
import { signInForm } from "./signin.js";
import * as theme from "./theme.js";

const root = document.getElementById("app");
let frame = null;

function showSignIn(message) {
  frame?.destroy();
  frame = null;
  fill(root, signInForm(start, message));
  root.querySelector("input").focus();
}

function start(who) {
  frame = new Frame(root, who, () => showSignIn("You have signed out."));
}

onSignedOut(() => frame && showSignIn("Your session has ended; sign in again."));
theme.start();
fill(root, el("main", {}, el("p", { class: "loading", text: "loading …" })));
try {
  const who = await session();
  if (who) start(who);
  else showSignIn("");
} catch (error) {
  showSignIn(error.message);
}
