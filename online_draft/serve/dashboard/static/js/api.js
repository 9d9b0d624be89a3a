// The admin API. The cookie goes along by itself; decisions carry the session's token, too.

const BASE = new URL("admin/", document.baseURI);
let csrf = "";
let model = "";
let signedOut = () => {};

export class ApiFailure extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export function url(path, parameters = {}) {
  const made = new URL(path, BASE);
  if (model && path.startsWith("api/")) made.searchParams.set("model", model);
  for (const [name, value] of Object.entries(parameters)) {
    if (value === "" || value === null || value === undefined) continue;
    for (const one of [value].flat()) made.searchParams.append(name, one);
  }
  return made;
}

// Of which model all questions and decisions are; "" for the service's first one.
export function choose(name) {
  model = name;
}

export function onSignedOut(then) {
  signedOut = then;
}

async function call(method, path, { parameters, body, signal } = {}) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (method !== "GET") headers["X-CSRF-Token"] = csrf;
  let answer;
  try {
    answer = await fetch(url(path, parameters), {
      method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiFailure(0, "unreachable", "the service can't be reached");
  }
  if (answer.status === 204) return null;
  const data = await answer.json().catch(() => ({}));
  if (answer.ok) return data;
  const failure = new ApiFailure(answer.status, data.error?.code ?? "", data.error?.message ?? `status ${answer.status}`);
  if (answer.status === 401 && path !== "session") signedOut();
  throw failure;
}

export const get = (path, parameters, signal) => call("GET", `api/${path}`, { parameters, signal });
export const decide = (path, body) => call("POST", `api/${path}`, { body });

export async function session() {
  const found = await call("GET", "session");
  csrf = found?.csrf ?? "";
  return found;
}

export async function signIn(key) {
  const made = await call("POST", "session", { body: { key } });
  csrf = made.csrf;
  return made;
}

export async function signOut() {
  await call("DELETE", "session");
  csrf = "";
}
