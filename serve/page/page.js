// The page: models, tabs and keys, and a panel for each use, which asks and shows.

import { record } from "./recorder.js";
import { ask, curl, events, key } from "./server.js";
import { USES, element } from "./uses.js";

const $ = (id) => document.getElementById(id);
let models = [];

class Panel {
  constructor(section) {
    this.section = section;
    this.use = USES[section.id];
    this.form = section.querySelector("form");
    this.answer = section.querySelector(".answer");
    this.form.append($("actions").content.cloneNode(true));
    section.querySelector(".took").append($("facts").content.cloneNode(true));
    this.primary = this.form.querySelector(".primary");
    this.primary.textContent = this.use.verb;
    this.stop = this.form.querySelector(".stop");
    this.progress = this.form.querySelector(".progress");
    this.facts = section.querySelector(".facts");
    this.line = section.querySelector(".line");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.asking) this.run();
    });
    this.form.addEventListener("keydown", (event) => this.press(event));
    this.stop.addEventListener("click", () => this.asking.abort());
    this.line.querySelector(".copy").addEventListener("click", (event) => this.copy(event.target));
    if (this.use.clear) this.addClear();
  }

  press(event) {
    const enter = event.key === "Enter" && !event.isComposing && event.target.matches("textarea");
    const sends = "enter" in this.form.dataset ? !event.shiftKey : event.ctrlKey || event.metaKey;
    if (enter && sends) {
      event.preventDefault();
      this.form.requestSubmit();
    }
  }

  addClear() {
    const button = element("button", "New", "quiet");
    button.type = "button";
    button.addEventListener("click", () => {
      this.asking?.abort();
      this.use.clear();
      this.answer.replaceChildren();
      this.tell([]);
      this.line.hidden = true;
      this.progress.textContent = "";
    });
    this.stop.after(button);
  }

  async run() {
    const { use, form, answer } = this;
    const [route, body] = use.ask(form, $("model").value);
    fail(null);
    this.line.querySelector("pre").textContent = curl(route, body);
    this.line.hidden = false;
    this.tell([]);
    if (!use.begin) answer.replaceChildren();
    const place = use.begin?.(answer, form) ?? answer;
    this.begin();
    try {
      const response = await ask(route, body, this.asking.signal);
      if (use.piece) await this.stream(response, place);
      else {
        const facts = use.show(place, await response.json(), body);
        this.tell([["Total", seconds(this.elapsed())], ...facts]);
        this.progress.textContent = "Done";
      }
    } catch (error) {
      this.progress.textContent = error.name === "AbortError" ? "Stopped" : "";
      if (error.name !== "AbortError") fail(error);
    } finally {
      if (place.isConnected) (place.textContent ? use.end : use.undo)?.(place, form);
      this.end();
    }
    await refresh().catch(() => {}); // whether it is loaded is a hint alone
  }

  /** Show an answer as it comes, and what it took. */
  async stream(response, place) {
    let first = null;
    let usage = {};
    for await (const event of events(response)) {
      const text = this.use.piece(event);
      if (text) {
        first ??= this.elapsed();
        this.progress.textContent = "Answering";
        place.append(text);
        if (this.section.id === "chat") this.answer.scrollTop = this.answer.scrollHeight;
      }
      usage = event.usage ?? usage;
    }
    const total = this.elapsed();
    const { completion_tokens: tokens, seconds: sound } = usage;
    this.tell([
      ["First token", first === null ? "none" : seconds(first)],
      ["Total", seconds(total)],
      ...(tokens ? [["Tokens", tokens], ["Tokens/s", (tokens / total).toFixed(1)]] : []),
      ...(sound ? [["Recording", `${sound} s`]] : []),
    ]);
    this.progress.textContent = first === null ? "The answer is empty" : "Done";
  }

  begin() {
    this.asking = new AbortController();
    this.began = performance.now();
    this.answer.ariaBusy = "true"; // read aloud when it is whole
    this.primary.ariaDisabled = "true"; // and keeps the focus
    this.stop.hidden = false;
    this.progress.textContent = "Waiting";
  }

  end() {
    this.asking = null;
    this.answer.ariaBusy = "false";
    this.primary.ariaDisabled = "false";
    if (document.activeElement === this.stop) this.primary.focus();
    this.stop.hidden = true;
  }

  elapsed() {
    return (performance.now() - this.began) / 1000;
  }

  tell(facts) {
    this.facts.replaceChildren(
      ...facts.map(([name, value]) => {
        const pair = element("div");
        pair.append(element("dt", name), element("dd", value));
        return pair;
      }),
    );
  }

  async copy(button) {
    const line = this.line.querySelector("pre");
    try {
      await navigator.clipboard.writeText(line.textContent);
      button.textContent = "Copied";
    } catch { // no permission, or a page that came over http
      getSelection().selectAllChildren(line);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  }
}

function seconds(value) {
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(2)} s`;
}

/** The one place of errors; none clears it. */
function fail(error) {
  $("error").replaceChildren();
  if (!error) return;
  if (error.status === 401) {
    $("key").hidden = false;
    $("secret").focus();
    if (!key.get()) return; // nothing went wrong yet
  }
  const close = element("button", "Close", "quiet");
  close.addEventListener("click", () => fail(null));
  $("error").append(element("p", error.message), close);
}

/** Read what is served. */
async function refresh() {
  models = (await (await ask("v1/models")).json()).data;
  showState();
}

function showState() {
  const model = models.find((each) => each.id === $("model").value);
  $("state").textContent = model ? (model.loaded ? "in memory" : "its first call loads it") : "";
}

function showModels(use) {
  const before = $("model").value;
  const usable = models.filter((each) => each.uses.includes(use));
  $("model").replaceChildren(...usable.map((each) => element("option", each.id)));
  if (usable.some((each) => each.id === before)) $("model").value = before;
  $("model").parentElement.hidden = false;
  showState();
}

function choose(use) {
  for (const tab of $("tabs").children) {
    const chosen = tab.id === `tab-${use}`;
    tab.ariaSelected = String(chosen);
    tab.tabIndex = chosen ? 0 : -1;
    $(tab.dataset.use).hidden = !chosen;
  }
  history.replaceState(null, "", `#${use}`);
  showModels(use);
}

function makeTab(section) {
  const tab = element("button", section.dataset.title);
  Object.assign(tab, { type: "button", id: `tab-${section.id}`, role: "tab" });
  tab.dataset.use = section.id;
  tab.setAttribute("aria-controls", section.id);
  section.role = "tabpanel";
  section.setAttribute("aria-labelledby", tab.id);
  tab.addEventListener("click", () => choose(section.id));
  return tab;
}

/** Arrows, Home and End among tabs, as a list of tabs has them. */
function moveAmongTabs(event) {
  const tabs = [...$("tabs").children];
  const place = tabs.indexOf(event.target);
  const places = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: -1 };
  if (!(event.key in places)) return;
  event.preventDefault();
  const next = tabs.at(places[event.key] % tabs.length);
  next.focus();
  choose(next.dataset.use);
}

/** Fill the page by what is served. */
async function start() {
  try {
    await refresh();
  } catch (error) {
    fail(error);
    return;
  }
  fail(null);
  $("key").hidden = true;
  $("forget").hidden = !key.get();
  const usable = sections.filter(({ id }) => models.some((each) => each.uses.includes(id)));
  $("nothing").hidden = usable.length > 0;
  $("tabs").hidden = usable.length === 0;
  $("tabs").replaceChildren(...usable.map(makeTab));
  const wanted = usable.find((section) => `#${section.id}` === location.hash) ?? usable[0];
  if (wanted) choose(wanted.id);
}

const sections = [...document.querySelectorAll(".panel")];
const panels = sections.map((section) => new Panel(section));

$("model").addEventListener("change", showState);
$("tabs").addEventListener("keydown", moveAmongTabs);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") panels.forEach((panel) => panel.asking?.abort());
});
$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set($("secret").value);
  $("secret").value = "";
  start();
});
$("forget").addEventListener("click", () => {
  key.forget();
  location.reload();
});

let endRecording = null;
$("record").addEventListener("click", async () => {
  const button = $("record");
  try {
    if (!endRecording) {
      endRecording = await record();
    } else {
      const ending = endRecording;
      endRecording = null;
      takeRecording(await ending());
    }
  } catch (error) {
    fail(error);
  }
  button.ariaPressed = String(Boolean(endRecording));
  button.textContent = endRecording ? "End the recording" : "Record";
});

/** Ask for a recording as if it were a file that was chosen. */
function takeRecording(file) {
  const form = $("transcribe").querySelector("form");
  const chosen = new DataTransfer();
  chosen.items.add(file);
  form.elements.file.files = chosen.files;
  URL.revokeObjectURL($("save").href);
  $("save").href = URL.createObjectURL(file);
  $("save").hidden = false;
  form.requestSubmit();
}

start();
