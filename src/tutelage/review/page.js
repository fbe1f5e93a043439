"use strict";
// The review's page. Every name from the data is set as text, never as markup.

const $ = (id) => document.getElementById(id);
const WORDS = { accept: "accepted", relabel: "relabelled", reject: "rejected" };
const TITLES = {
  next: "Label next", suspicious: "Doubtful labels", unsure: "Unsure", sure: "Sure", decided: "Decided",
  suggested: "Label first",
};
const DIGITS = "1234567890"; // the keys of the first classes
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
  if (shown !== null) card.append(element("p", "label", shown));
  if (item.why) card.append(element("p", "why", item.why));
  if (shown === null) {
    if (!item.decision) card.append(element("p", "why", "no label yet"));
  } else if (item.given === null) {
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
    card.append(element("p", "done", told(item)));
  }
  card.setAttribute("aria-selected", "false");
  card.addEventListener("click", () => choose(items.indexOf(items.find((i) => i.id === item.id))));
  card.addEventListener("dblclick", enlarge);
  return card;
}

function told({ decision: { action, label } }) {
  if (state.labelling) return label ?? "of no use";
  return action === "relabel" ? `${WORDS[action]}: ${label}` : WORDS[action];
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
  if ($("large").open) enlarge();
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
  choose(await firstToDecide(name));
}

// Labelling goes on where it was left, also where that is pages further on.
async function firstToDecide(name) {
  if (name !== "suggested") return 0;
  const mine = shows;
  let at = items.findIndex((item) => !item.decision);
  while (at < 0 && items.length < count && mine === shows) {
    const before = items.length;
    await more();
    if (items.length === before) break; // it failed, and said so
    at = items.findIndex((item) => !item.decision);
  }
  return Math.max(at, 0);
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

function counted({ decided, labelled, classes }) {
  const button = $("views").querySelector('[data-view="decided"]');
  button.textContent = `${TITLES.decided} (${decided})`;
  if (classes.length !== $("names").children.length) setClasses(classes);
  if (!state.labelling) return;
  const useless = decided > labelled ? `, ${decided - labelled} of no use` : "";
  $("progress").textContent = `${labelled} of ${state.images} labelled${useless}`;
  $("then").hidden = labelled === 0;
  $("first").hidden = classes.length > 0;
}

function setClasses(classes) {
  state.classes = classes;
  const chosen = $("class").value;
  const options = () => classes.map((name) => new Option(name, name));
  $("class").replaceChildren(new Option("all", ""), ...options());
  $("class").value = chosen;
  $("names").replaceChildren(...options());
  const keyed = classes.slice(0, DIGITS.length);
  $("classes").replaceChildren(...keyed.map((name, at) => {
    const button = element("button");
    button.type = "button";
    button.append(element("kbd", "", DIGITS[at]), ` ${name}`);
    button.addEventListener("click", () => decide("relabel", name));
    return button;
  }));
  $("large-keys").textContent = keyed.map((name, at) => `${DIGITS[at]} ${name}`).join(" · ");
}

function decide(action, label, made = false) {
  const item = items[current];
  if (!item || (action === "accept" && state.labelling)) return;
  const about = label ?? item.given ?? item.label;
  const words = state.labelling ? label ?? `of no use: ${item.image}` : `${WORDS[action]} ${about}`;
  send({ action, id: item.id, label, new: made }, words);
  choose(current + 1);
}

function send(body, words) {
  busy = busy.then(async () => {
    try {
      const answer = await ask("/api/decisions", body);
      counted(answer);
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
  const source = `/images/${item.id}/large`;
  if ($("large-image").getAttribute("src") !== source) $("large-image").src = source;
  $("large-image").alt = item.image;
  const done = item.decision ? `: ${told(item)}` : "";
  $("large-caption").textContent = `${current + 1} of ${count}, ${item.image}${done}`;
  if (!$("large").open) $("large").showModal();
}

function columns() {
  const cards = $("grid").children;
  let number = 1;
  while (number < cards.length && cards[number].offsetTop === cards[0].offsetTop) number += 1;
  return number;
}

let asked = null; // the name that a second Enter makes a class

function choosing() {
  if (!items[current]) return;
  $("wanted").value = "";
  hint("", null);
  $("chooser").returnValue = "";
  $("chooser").showModal();
}

function hint(text, name) {
  $("hint").textContent = text;
  $("choose").textContent = name === null ? "Choose" : "Make it a class";
  asked = name;
}

const folded = (name) => name.normalize("NFKC").toLowerCase().split(/\s+/).join(" ");

// A slip must not make a class: a name that is none yet is asked about, and Enter again makes it.
$("chooser").addEventListener("submit", (event) => {
  const name = $("wanted").value.trim();
  if (!name || state.classes.includes(name) || name === asked) return;
  event.preventDefault();
  const alike = state.classes.find((known) => folded(known) === folded(name));
  if (alike) hint(`The class is called ${alike}.`, null);
  else hint(`There is no class ${name} yet. Enter makes it one.`, name);
});

$("chooser").addEventListener("close", () => {
  const name = $("wanted").value.trim();
  if ($("chooser").returnValue !== "choose" || !name) return;
  decide("relabel", name, !state.classes.includes(name));
});

$("wanted").addEventListener("input", () => hint("", null));

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
  " ": () => ($("large").open ? $("large").close() : enlarge()),
  "[": () => otherView(-1),
  "]": () => otherView(1),
  "?": help,
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("button, select, input, #chooser");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const name = event.key.length === 1 ? state.classes[DIGITS.indexOf(event.key)] : undefined;
  const handler = KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
  if (name !== undefined) {
    decide("relabel", name);
  } else if (handler) {
    handler();
  } else {
    return;
  }
  event.preventDefault();
});

$("cancel").addEventListener("click", () => $("chooser").close("cancel"));
$("large").addEventListener("click", () => $("large").close());
$("large").addEventListener("close", () => choose(current));
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
  document.title = `${state.labelling ? "Label" : "Review"}: ${state.title}`;
  document.body.classList.toggle("labelling", state.labelling);
  $("progress").hidden = !state.labelling;
  $("title").textContent = document.title;
  $("facts").textContent = state.sentences.join(" ");
  for (const place of ["next-run", "train"]) $(place).textContent = state.next_run;
  setClasses(state.classes);
  $("views").append(...state.views.map((known) => {
    const button = element("button", "", `${TITLES[known.name]} (${known.count})`);
    button.type = "button";
    button.dataset.view = known.name;
    button.addEventListener("click", () => show(known.name));
    return button;
  }));
  counted(state);
  await show((state.views.find((known) => known.count) ?? state.views[0]).name);
}

start().catch((error) => say(error.message, true));
