// Everything that comes from the server becomes text: nothing here ever parses markup.
"use strict";

const byId = (id) => document.getElementById(id);
let bought = [];
let asked = null; // the item of which it is shown what the model looked at
let most = { history: 100, items: 20 };

function element(tag, name, text = "") {
  const made = document.createElement(tag);
  made.className = name;
  made.textContent = text;
  return made;
}

const named = (item) => item.title || item.id;

function described(item) {
  const text = element("span", "text");
  text.append(element("span", "title", named(item)));
  text.append(element("span", "under", [item.brand, item.id, item.item].filter(Boolean).join(" · ")));
  return text;
}

// A line that is a button; what it does is said to who cannot see its sign.
function choice(does, sign, number, content, action) {
  const button = element("button", "item");
  button.type = "button";
  const shown = element("span", "sign", sign);
  shown.setAttribute("aria-hidden", "true");
  button.append(element("span", number ? "number" : "", number), element("span", "hidden", `${does} `), content, shown);
  button.addEventListener("click", action);
  const line = element("li", "");
  line.append(button);
  return line;
}

async function ask(url, options) {
  const response = await fetch(url, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

const askAbout = (url, body, signal) => ask(url, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ history: bought.map((item) => item.id), ...body }),
  signal,
});

// What is asked last counts: an answer that is overtaken is dropped.
function latest(work) {
  let running = new AbortController();
  return async (...given) => {
    running.abort();
    const mine = (running = new AbortController());
    try {
      await work(mine.signal, ...given);
    } catch (error) {
      if (!mine.signal.aborted) tell(error.message, true);
    }
  };
}

function tell(message, wrong = false) {
  byId("ranked-note").textContent = message;
  byId("ranked-note").classList.toggle("wrong", wrong);
}

const search = latest(async (signal) => {
  const words = encodeURIComponent(byId("search").value);
  const { items } = await ask(`/api/items?q=${words}`, { signal });
  byId("found").replaceChildren(...items.map((item) =>
    choice("Add", "+", "", described(item), () => change([...bought, item]))));
  byId("found-note").textContent = items.length ? "" : "Nothing in the catalogue holds all these words.";
});

function showHistory() {
  byId("history").replaceChildren(...bought.map((item, place) => {
    const content = described(item);
    content.append(element("span", "why under"));
    return choice("Remove", "×", place + 1, content, () => {
      change(bought.toSpliced(place, 1));
      // The button is gone: whoever uses a keyboard goes on with the next one.
      const left = byId("history").querySelectorAll("button");
      (left[Math.min(place, left.length - 1)] ?? byId("search")).focus();
    });
  }));
  byId("clear").hidden = byId("link-note").hidden = !bought.length;
  byId("empty").hidden = bought.length > 0;
}

function showExamples(examples) {
  byId("or-examples").hidden = !examples.length;
  byId("examples").replaceChildren(...examples.map((items) => {
    const text = element("span", "text", items.map(named).join(" · "));
    return choice("Begin with", "+", "", text, () => {
      change(items);
      byId("clear").focus();
    });
  }));
}

// How much of the model's attention each item of the history had, beside it.
const explain = latest(async (signal, item) => {
  asked = item;
  const { looked_at } = await askAbout("/api/why", { item: item.id }, signal);
  const lines = [...byId("history").children];
  if (looked_at.length !== lines.length) return; // the history has changed since
  const highest = Math.max(...looked_at);
  lines.forEach((line, place) => {
    const share = looked_at[place];
    line.querySelector(".why").textContent = `${Math.round(100 * share)} %`;
    line.classList.toggle("looked", share > 0 && share === highest);
  });
  for (const button of byId("ranked").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", button.dataset.id === item.id);
  }
  byId("why-note").textContent =
    `What the model looked at for ${named(item)}: the share of its attention. The words of the question have the rest.`;
});

const recommend = latest(async (signal) => {
  byId("why-note").textContent = "";
  if (!bought.length) {
    byId("ranked").replaceChildren();
    return tell("Nothing to go by yet.");
  }
  byId("ranked").classList.add("waiting");
  try {
    const options = { k: most.items, include_seen: byId("seen").checked };
    const { items } = await askAbout("/api/recommend", options, signal);
    showRanked(items);
    if (items.length) explain(items.find((item) => item.id === asked?.id) ?? items[0]);
  } finally {
    if (!signal.aborted) byId("ranked").classList.remove("waiting");
  }
});

function showRanked(items) {
  const best = items.length ? items[0].probability : 1;
  tell(items.length ? "Probability among all items, and the logarithm of the text’s. Choose one to see what the model looked at." : "Nothing is left to recommend.");
  const groups = [["Never bought before", false], ["Bought before", true]]
    .map(([name, seen]) => [name, items.filter((item) => item.seen === seen)])
    .filter(([, members]) => members.length);
  byId("ranked").replaceChildren(...groups.flatMap(([name, members]) => {
    const heading = element("h3", "group", name);
    const list = element("ol", "list");
    list.setAttribute("aria-label", name);
    list.append(...members.map((item) => ranked(item, best)));
    return [heading, list];
  }));
}

function ranked(item, best) {
  const line = element("li", "");
  const button = element("button", "item");
  button.type = "button";
  button.dataset.id = item.id;
  button.addEventListener("click", () => explain(item));
  const share = item.probability;
  const score = element("span", "score");
  score.append(element("span", "title-score", `${(100 * share).toFixed(share < 0.01 ? 2 : 1)} %`));
  score.append(element("span", "under", item.score.toFixed(3)));
  const track = element("span", "track");
  const fill = element("progress", "fill");
  fill.max = 1;
  fill.value = best ? share / best : 0;
  track.append(fill);
  track.setAttribute("aria-hidden", "true");
  button.append(element("span", "number", item.rank), described(item), score, track);
  line.append(button);
  line.dataset.id = item.id;
  return line;
}

function change(items) {
  if (items.length > most.history) return tell(`A history has at most ${most.history} items here.`, true);
  bought = items;
  showHistory();
  writeLink();
  recommend();
}

// The address holds the history behind #, which browsers send to no server.
function writeLink() {
  const parts = new URLSearchParams(bought.map((item) => ["id", item.id]));
  if (byId("seen").checked) parts.set("seen", "1");
  window.history.replaceState(null, "", bought.length ? `#${parts}` : location.pathname);
}

const readLink = latest(async (signal) => {
  const parts = new URLSearchParams(location.hash.slice(1));
  const ids = parts.getAll("id");
  if (!ids.length) return;
  const asked = new URLSearchParams(ids.map((id) => ["id", id]));
  const { items } = await ask(`/api/items?${asked}`, { signal });
  byId("seen").checked = parts.has("seen");
  change(items);
});

let pause;
byId("search").addEventListener("input", () => {
  clearTimeout(pause);
  pause = setTimeout(search, 120);
});
byId("seen").addEventListener("change", () => {
  writeLink();
  recommend();
});
byId("clear").addEventListener("click", () => {
  change([]);
  byId("search").focus();
});
window.addEventListener("hashchange", readLink);
ask("/api/about").then((about) => {
  most = { history: about.most_history, items: about.most_items };
  byId("about").textContent = `${about.domain} · ${about.items.toLocaleString("en")} items`;
  document.title = `recalign · ${about.domain}`;
  showExamples(about.examples);
  readLink();
}).catch((error) => tell(error.message, true));
search();
