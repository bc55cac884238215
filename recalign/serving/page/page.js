// Everything that comes from the server becomes text: nothing here ever parses markup.
"use strict";

const byId = (id) => document.getElementById(id);
let history = [];
let most = { history: 100, items: 20 };

function element(tag, name, text = "") {
  const made = document.createElement(tag);
  made.className = name;
  made.textContent = text;
  return made;
}

function described(item) {
  const text = element("span", "text");
  text.append(element("div", "title", item.title || item.id));
  text.append(element("div", "under", [item.brand, item.id, item.item].filter(Boolean).join(" · ")));
  return text;
}

async function ask(url, options) {
  const response = await fetch(url, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

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
  byId("found").replaceChildren(...items.map((item) => {
    const button = element("button", "item");
    button.append(element("span", ""), described(item), element("span", "sign", "+"));
    button.addEventListener("click", () => change([...history, item]));
    const line = element("li", "");
    line.append(button);
    return line;
  }));
  if (!items.length) byId("found").append(element("li", "note", "Nothing in the catalogue holds all these words."));
});

function showHistory() {
  byId("history").replaceChildren(...history.map((item, place) => {
    const button = element("button", "item");
    button.title = "Remove";
    button.append(element("span", "number", place + 1), described(item), element("span", "sign", "×"));
    button.addEventListener("click", () => change(history.toSpliced(place, 1)));
    const line = element("li", "");
    line.append(button);
    return line;
  }));
  byId("clear").hidden = !history.length;
  byId("history-note").hidden = history.length > 0;
}

const recommend = latest(async (signal) => {
  if (!history.length) {
    byId("ranked").replaceChildren();
    return tell("Nothing to go by yet.");
  }
  byId("ranked").classList.add("waiting");
  try {
    const { items } = await ask("/api/recommend", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        history: history.map((item) => item.id),
        k: most.items,
        include_seen: byId("seen").checked,
      }),
      signal,
    });
    showRanked(items);
  } finally {
    if (!signal.aborted) byId("ranked").classList.remove("waiting");
  }
});

function showRanked(items) {
  const best = items.length ? Math.exp(items[0].score) : 1;
  tell(items.length ? "Probability of being bought next, and its logarithm." : "Nothing is left to recommend.");
  byId("ranked").replaceChildren(...items.map((item) => {
    const line = element("li", "item");
    const share = Math.exp(item.score);
    const score = element("span", "score");
    score.append(element("div", "", `${(100 * share).toFixed(share < 0.01 ? 2 : 1)} %`));
    score.append(element("div", "under", item.score.toFixed(3)));
    const track = element("div", "track");
    const fill = element("progress", "fill");
    fill.max = 1;
    fill.value = share / best;
    fill.setAttribute("aria-hidden", "true");
    track.append(fill);
    line.append(element("span", "number", item.rank), described(item), score, track);
    line.dataset.id = item.id;
    return line;
  }));
}

function change(items) {
  if (items.length > most.history) return tell(`A history has at most ${most.history} items here.`, true);
  history = items;
  showHistory();
  recommend();
}

let pause;
byId("search").addEventListener("input", () => {
  clearTimeout(pause);
  pause = setTimeout(search, 120);
});
byId("seen").addEventListener("change", recommend);
byId("clear").addEventListener("click", () => change([]));
ask("/api/about").then((about) => {
  most = { history: about.most_history, items: about.most_items };
  byId("about").textContent = `${about.domain} · ${about.items.toLocaleString("en")} items`;
  document.title = `recalign · ${about.domain}`;
}).catch((error) => tell(error.message, true));
search();
