"use strict";
// The review's page. Every name from the data is set as text, never as markup.

const $ = (id) => document.getElementById(id);
const WORDS = { accept: "accepted", relabel: "relabelled", reject: "rejected" };
const TITLES = {
  next: "Label next", suspicious: "Doubtful labels", unsure: "Unsure", sure: "Sure", decided: "Decided",
};
let state = null; // what /api/state said
let view = "next";
let items = []; // the shown ones, in order
let count = 0; // how many the view has
let current = 0; // position of the chosen item
let loading = false;
let shows = 0; // how often a view was opened
let busy = Promise.resolve(); // decisions leave one after the other, in the order of the keys

async function ask(address, body) {
  const options = body
    ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }
    : {};
  const answer = await fetch(address, options);
  const content = await answer.json().catch(() => ({ error: "the server gave no answer" }));
  if (!answer.ok) throw new Error(content.error || `the server answered ${answer.status}`);
  return content;
}

function say(text, failed = false) {
  $("status").textContent = text;
  $("status").className = failed ? "failed" : "";
}

function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

const percent = (share) => `${Math.round(100 * share)}%`;

function describe(item) {
  const card = element("div", "item");
  card.id = `item-${item.id}`;
  card.setAttribute("role", "option");
  card.tabIndex = -1;
  const image = element("img");
  image.src = `/images/${item.id}/small`;
  image.loading = "lazy";
  image.alt = item.image;
  card.append(image);
  const shown = item.given ?? item.label;
  card.append(element("p", "label", shown));
  if (item.given === null) {
    card.append(element("p", "why", `${percent(item.confidence)}, else ${item.other}`));
  } else if (item.label !== item.given) {
    const doubt = `looks like ${item.label}; ${percent(item.suspicion)} likely wrong`;
    card.append(element("p", item.suspected ? "doubt" : "why", doubt));
  } else {
    card.append(element("p", "why", `your label; ${percent(item.suspicion)} likely wrong`));
  }
  const done = item.decision;
  if (done) {
    card.dataset.action = done.action;
    const other = done.action === "relabel" ? `: ${done.label}` : "";
    card.append(element("p", "done", `${WORDS[done.action]}${other}`));
  }
  card.setAttribute("aria-selected", "false");
  card.addEventListener("click", () => choose(items.indexOf(items.find((i) => i.id === item.id))));
  card.addEventListener("dblclick", enlarge);
  return card;
}

function choose(position, { focus = true } = {}) {
  if (!items.length) return;
  const cards = $("grid").children;
  cards[current]?.setAttribute("aria-selected", "false");
  if (cards[current]) cards[current].tabIndex = -1;
  current = Math.max(0, Math.min(items.length - 1, position));
  cards[current].setAttribute("aria-selected", "true");
  cards[current].tabIndex = 0;
  if (focus) cards[current].focus();
  if (current >= items.length - 10 && items.length < count) more();
}

function draw() {
  $("grid").replaceChildren(...items.map(describe));
  $("empty").hidden = items.length > 0;
  $("more").hidden = items.length >= count;
}

function redraw(item) {
  const at = items.findIndex((other) => other.id === item.id);
  if (at < 0) return;
  items[at] = item;
  $("grid").children[at].replaceWith(describe(item));
}

async function show(name) {
  view = name;
  shows += 1;
  items = [];
  count = 0;
  current = 0;
  loading = false;
  draw();
  $("empty").hidden = true;
  for (const button of $("views").children) {
    button.setAttribute("aria-pressed", String(button.dataset.view === name));
  }
  $("about").textContent = state.views.find((known) => known.name === name).about;
  await more();
  choose(0);
}

async function more() {
  if (loading) return;
  loading = true;
  const mine = shows;
  try {
    const query = new URLSearchParams({ view, first: items.length });
    if ($("class").value) query.set("class", $("class").value);
    const found = await ask(`/api/items?${query}`);
    if (mine !== shows) return; // another view was opened meanwhile
    count = found.count;
    if (!items.length) {
      items = found.items;
      draw();
    } else {
      items.push(...found.items);
      $("grid").append(...found.items.map(describe));
      $("more").hidden = items.length >= count;
    }
  } catch (error) {
    say(error.message, true);
  } finally {
    if (mine === shows) loading = false;
  }
}

function counted(decided) {
  const button = $("views").querySelector('[data-view="decided"]');
  button.textContent = `${TITLES.decided} (${decided})`;
}

function decide(action, label) {
  const item = items[current];
  if (!item) return;
  send({ action, id: item.id, label }, `${WORDS[action]} ${label ?? item.given ?? item.label}`);
  choose(current + 1);
}

function send(body, words) {
  busy = busy.then(async () => {
    try {
      const answer = await ask("/api/decisions", body);
      counted(answer.decided);
      if (!answer.item) {
        say("nothing to take back");
        return;
      }
      redraw(answer.item);
      say(body.action === "undo" ? `taken back: ${answer.item.image}` : words);
      if (body.action === "undo") {
        const at = items.findIndex((item) => item.id === answer.item.id);
        if (at >= 0) choose(at);
      } else {
        choose(current, { focus: document.activeElement === document.body });
      }
    } catch (error) {
      say(`not saved: ${error.message}`, true);
    }
  });
}

function enlarge() {
  const item = items[current];
  if (!item) return;
  $("large-image").src = `/images/${item.id}/large`;
  $("large-image").alt = item.image;
  $("large-caption").textContent = item.image;
  $("large").showModal();
}

function columns() {
  const cards = $("grid").children;
  let number = 1;
  while (number < cards.length && cards[number].offsetTop === cards[0].offsetTop) number += 1;
  return number;
}

function choosing() {
  $("wanted").value = "";
  $("chooser").returnValue = "";
  $("chooser").showModal();
}

$("chooser").addEventListener("close", () => {
  const name = $("wanted").value.trim();
  if ($("chooser").returnValue !== "choose" || !name) return;
  if (state.classes.includes(name)) decide("relabel", name);
  else say(`${name} is none of the classes`, true);
});

function otherView(step) {
  const names = state.views.map((known) => known.name);
  show(names[(names.indexOf(view) + step + names.length) % names.length]);
}

function help() {
  $("help").hidden = !$("help").hidden;
  $("keys").setAttribute("aria-expanded", String(!$("help").hidden));
}

const KEYS = {
  ArrowRight: () => choose(current + 1),
  ArrowLeft: () => choose(current - 1),
  ArrowDown: () => choose(current + columns()),
  ArrowUp: () => choose(current - columns()),
  Enter: () => decide("accept"),
  a: () => decide("accept"),
  x: () => decide("reject"),
  c: choosing,
  u: () => send({ action: "undo" }),
  " ": enlarge,
  "[": () => otherView(-1),
  "]": () => otherView(1),
  "?": help,
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("button, select, input, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const number = Number(event.key);
  const handler = KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
  if (number >= 1 && number <= Math.min(9, state.classes.length)) {
    decide("relabel", state.classes[number - 1]);
  } else if (handler) {
    handler();
  } else {
    return;
  }
  event.preventDefault();
});

$("cancel").addEventListener("click", () => $("chooser").close("cancel"));
$("large").addEventListener("click", () => $("large").close());
$("large").addEventListener("keydown", (event) => {
  if (event.key === " ") { event.preventDefault(); $("large").close(); }
});
$("accept").addEventListener("click", () => decide("accept"));
$("reject").addEventListener("click", () => decide("reject"));
$("other").addEventListener("click", choosing);
$("undo").addEventListener("click", () => send({ action: "undo" }));
$("keys").addEventListener("click", help);
$("more").addEventListener("click", more);
$("class").addEventListener("change", () => show(view));

async function start() {
  history.replaceState(null, "", "/"); // the token is a cookie now
  state = await ask("/api/state");
  document.title = `Review: ${state.title}`;
  $("title").textContent = `Review: ${state.title}`;
  $("facts").textContent = state.sentences.join(" ");
  $("next-run").textContent = state.next_run;
  $("class").append(new Option("all", ""), ...state.classes.map((name) => new Option(name, name)));
  $("names").append(...state.classes.map((name) => new Option(name, name)));
  $("classes").append(...state.classes.slice(0, 9).map((name, at) => {
    const button = element("button");
    button.type = "button";
    button.append(element("kbd", "", String(at + 1)), ` ${name}`);
    button.addEventListener("click", () => decide("relabel", name));
    return button;
  }));
  $("views").append(...state.views.map((known) => {
    const button = element("button", "", `${TITLES[known.name]} (${known.count})`);
    button.type = "button";
    button.dataset.view = known.name;
    button.addEventListener("click", () => show(known.name));
    return button;
  }));
  counted(state.decided);
  await show(state.views.find((known) => known.count)?.name ?? "sure");
}

start().catch((error) => say(error.message, true));
