// The server's routes: calls with the key, their errors, streams, and the same by curl.

const KEY = "seq2edge.key";

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** What the server refused, in its words; `status` is 0 where it did not answer. */
export class Failure extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The response to a body: an object, a form, or none. Throws Failure, and AbortError. */
export async function ask(route, body, signal) {
  const headers = key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
  const request = { headers, signal };
  if (body instanceof FormData) {
    Object.assign(request, { method: "POST", body });
  } else if (body) {
    headers["Content-Type"] = "application/json";
    Object.assign(request, { method: "POST", body: JSON.stringify(body) });
  }
  let response;
  try {
    response = await fetch(route, request);
  } catch (error) {
    throw error.name === "AbortError" ? error : new Failure("The server does not answer.");
  }
  if (!response.ok) {
    const answer = await response.json().catch(() => null);
    const message = answer?.error?.message ?? `The server answers ${response.status}.`;
    throw new Failure(message, response.status);
  }
  return response;
}

/** The objects of a stream of server-sent events. Throws Failure for one that tells an error. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ; ) {
    const { done, value } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Failure("The connection was lost.");
    });
    if (done) throw new Failure("The answer ended in its middle.");
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue; // a sign of life
      if (part === "data: [DONE]") return;
      const event = JSON.parse(part.slice("data: ".length));
      if (event.error) throw new Failure(event.error.message);
      yield event;
    }
  }
}

/** A line for a shell that asks the same; the key is that of its environment. */
export function curl(route, body) {
  const words = ["curl", quoted(new URL(route, document.baseURI).href)];
  if (key.get()) words.push('-H "Authorization: Bearer $SEQ2EDGE_KEY"');
  if (body instanceof FormData) {
    if (body.get("stream")) words.push("-N");
    for (const [name, value] of body) {
      if (value instanceof File) {
        const path = value.name.replace(/["\\]/g, "\\$&");
        words.push(`-F ${quoted(`${name}=@"${path}"`)}`);
      } else {
        words.push(`--form-string ${quoted(`${name}=${value}`)}`);
      }
    }
  } else {
    if (body.stream) words.push("-N");
    words.push(`--json ${quoted(JSON.stringify(body))}`);
  }
  return words.join(" ");
}

function quoted(text) {
  return /^[\w./:=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
