// What can be tried: what each use asks of the server, and how its answer is shown.
//
// `ask(form, model)` gives a route and a body. `piece(event)` gives the text of an event of a
// stream; `show(place, answer, body)` puts a whole answer in its place and returns facts about it.

const STREAMED = { stream: true, stream_options: { include_usage: true } };
const MOST_ROWS = 12; // of the table that compares all texts with all

const texts = { // of an encoder-decoder the prompt is its source
  ask: (form, model) => ["v1/completions", { model, ...fields(form), ...STREAMED }],
  piece: (event) => event.choices[0]?.text,
};

let messages = []; // of the chat, as the server reads them

export const USES = {
  translate: { verb: "Translate", ...texts },
  complete: { verb: "Complete", ...texts },

  chat: {
    verb: "Send",
    ask(form, model) {
      const { message, system, ...options } = fields(form);
      const first = system ? [{ role: "system", content: system }] : [];
      const asked = [...first, ...messages, { role: "user", content: message }];
      return ["v1/chat/completions", { model, messages: asked, ...options, ...STREAMED }];
    },
    piece: (event) => event.choices[0]?.delta.content,
    begin(place, form) {
      place.append(element("p", form.elements.message.value, "user"), element("p", "", "reply"));
      form.elements.message.value = "";
      return place.lastElementChild;
    },
    end(place) {
      messages.push({ role: "user", content: place.previousElementSibling.textContent });
      messages.push({ role: "assistant", content: place.textContent });
    },
    undo(place, form) {
      form.elements.message.value = place.previousElementSibling.textContent;
      place.previousElementSibling.remove();
      place.remove();
    },
    clear() {
      messages = [];
    },
  },

  transcribe: {
    verb: "Transcribe",
    ask(form, model) {
      const { task, ...options } = fields(form);
      const body = new FormData();
      for (const [name, value] of Object.entries({ model, ...options })) body.set(name, value);
      body.set("stream", "true");
      body.set("file", form.elements.file.files[0]);
      return [`v1/audio/${task}`, body];
    },
    piece: (event) => event.delta,
  },

  embed: {
    verb: "Embed",
    ask: (form, model) => ["v1/embeddings", { model, ...fields(form) }],
    show(place, answer, { input }) {
      const vectors = answer.data.map((each) => each.embedding).slice(0, MOST_ROWS);
      const table = element("table");
      table.createTHead().append(row("", vectors.map((_, i) => element("th", i + 1))));
      const body = table.createTBody();
      vectors.forEach((vector, i) => {
        const cells = vectors.map((other) => heat(cosine(vector, other)));
        body.append(row(`${i + 1}  ${input[i]}`, cells));
      });
      const scroll = element("div", "", "scroll");
      scroll.tabIndex = 0;
      scroll.role = "group";
      scroll.ariaLabel = "Cosine of each text with each";
      scroll.append(table);
      place.append(scroll);
      if (input.length > MOST_ROWS) {
        place.append(element("p", `The first ${MOST_ROWS} of ${input.length} texts.`, "hint"));
      }
      return [
        ["Dimensions", vectors[0].length],
        ["Tokens", answer.usage.total_tokens],
      ];
    },
  },

  rerank: {
    verb: "Rank",
    ask: (form, model) => ["v1/rerank", { model, ...fields(form) }],
    show(place, { results }, { documents }) {
      place.append(bars(results.map((each) => [documents[each.index], each.relevance_score])));
      return [["Texts", results.length]];
    },
  },

  classify: {
    verb: "Classify",
    ask: (form, model) => ["v1/classify", { model, ...fields(form) }],
    show(place, { results }, { input }) {
      results.forEach(({ scores }, i) => {
        const sorted = Object.entries(scores).sort((one, other) => other[1] - one[1]);
        place.append(element("h3", input[i]), bars(sorted));
      });
      return [["Texts", results.length]];
    },
  },

  tag: {
    verb: "Tag",
    ask: (form, model) => ["v1/tag", { model, ...fields(form) }],
    show(place, { results: [entities] }, { input }) {
      place.append(marked(input, entities));
      return [["Entities", entities.length]];
    },
  },

  answer: {
    verb: "Answer",
    ask: (form, model) => ["v1/answer", { model, ...fields(form) }],
    show(place, { answers }, { context }) {
      const [best] = answers;
      place.append(bars(answers.map((each) => [each.text || "no answer", each.score])));
      place.append(marked(context, best.text ? [{ ...best, label: "" }] : []));
      return [["Answers", answers.length]];
    },
  },
};

/** The fields of a form that have a value, by the API's names. */
function fields(form) {
  const values = {};
  for (const { name, value, type, dataset } of form.elements) {
    if (!name || !value || type === "file") continue;
    if ("lines" in dataset) values[name] = value.split("\n").filter((line) => line.trim());
    else values[name] = type === "number" ? Number(value) : value;
  }
  return values;
}

export function element(tag, text = "", kind = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function row(name, cells) {
  const made = element("tr");
  made.append(element("th", name), ...cells);
  return made;
}

function heat(value) {
  const cell = element("td", value.toFixed(2));
  cell.style.setProperty("--part", Math.max(0, Math.min(1, value)));
  return cell;
}

function cosine(one, other) {
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  return dot(one, other) / Math.sqrt(dot(one, one) * dot(other, other));
}

/** Texts with their scores, and how much of 1 each is. */
function bars(pairs) {
  const list = element("ol", "", "bars");
  for (const [text, score] of pairs) {
    const item = element("li");
    item.style.setProperty("--part", Math.max(0, Math.min(1, score)));
    item.append(element("span", text), element("span", score.toFixed(3), "score"));
    list.append(item);
  }
  return list;
}

/** A text with its parts marked; their places count code points, in which Python counts. */
function marked(text, parts) {
  const letters = [...text];
  const made = element("p", "", "marked");
  let end = 0;
  for (const part of parts) {
    made.append(letters.slice(end, part.start).join(""));
    const mark = element("mark", letters.slice(part.start, part.end).join(""));
    if (part.label) mark.append(element("span", part.label, "label"));
    made.append(mark);
    end = part.end;
  }
  made.append(letters.slice(end).join(""));
  return made;
}
