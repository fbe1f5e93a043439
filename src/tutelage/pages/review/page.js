// The review's page: what its keys and buttons do, and what it says of where one is.

import { choose, prepare } from "./chooser.js";
import { Grid } from "./grid.js";
import { DIGITS, listen, rows } from "./keys.js";
import { List, PAGE } from "./list.js";
import { Saving, ask } from "./server.js";
import { Viewer } from "./viewer.js";
import { element, lines, told } from "./words.js";

const $ = (id) => document.getElementById(id);
const TITLES = {
  next: "Label next", suspicious: "Your labels", unsure: "Least sure first", sure: "Surest first",
  decided: "Decided", suggested: "Label first",
};
let state = null; // what /api/state said
let view = null; // the name of the opened one
let list = new List([], new Set()); // its images
let openings = 0; // how often a list was opened
let selecting = false; // whether a click selects
let undone = []; // steps that can be made again, the latest last
let stuck = false; // whether something could not be saved yet
let size = ""; // of the picture in the viewer

const fail = (error) => say(error.message, true);
const grid = new Grid({ place: $("grid"), earlier: $("earlier"), more: $("more"), clicked, failed: fail });
const viewer = new Viewer({ place: $("viewer"), stage: $("stage"), swiped: move, changed: zoomed });
const saving = new Saving({ saved, refused, delayed });

function say(text, failed = false) {
  $("status").textContent = text;
  $("status").className = failed ? "failed" : "";
}

// --- where one is

async function show(name) {
  const mine = ++openings;
  view = name;
  for (const button of $("views").children) {
    button.setAttribute("aria-pressed", String(button.dataset.view === name));
  }
  $("about").textContent = state.views.find((known) => known.name === name).about;
  const waiting = saving.waiting.flatMap((step) => step.ids);
  const opened = await List.open(name, $("class").value, $("shown").value, waiting);
  if (mine !== openings) return; // another one was opened meanwhile
  list = opened;
  list.at = list.anchor = Math.max(0, list.nextUndecided(0));
  $("empty").hidden = list.length > 0;
  await grid.open(list);
  await goTo(list.at);
}

const open = (name) => show(name).catch(fail);

// The current image is another one at once; until it is loaded, nothing can be decided about it.
async function goTo(position) {
  const mine = list;
  list.at = Math.max(0, Math.min(list.length - 1, position));
  where();
  if (!list.length) return;
  if (!grid.has(list.at)) await grid.reach(list.at);
  if (mine !== list) return;
  grid.mark(list.at, !viewer.open);
  if (viewer.open) enlarge();
}

const go = (position) => goTo(position).catch(fail);

function move(step) {
  const before = list.at;
  go(before + step);
  list.anchor = list.at;
  if (list.at === before) say(step > 0 ? "This is the last image." : "This is the first image.");
}

function nextUndecided() {
  const at = list.nextUndecided(list.at + 1);
  if (at < 0) say("Every image of this list is decided.");
  else go(at);
}

function where() {
  const { length, undecided, picked } = list;
  const place = length ? `${list.at + 1} of ${length}` : "0 of 0";
  $("position").textContent = picked.size ? `${place}, ${picked.size} selected` : place;
  $("share").value = length ? (length - undecided) / length : 0;
  const decided = state.labelling ? labelled() : `${length - undecided} decided`;
  const unsaved = stuck ? `, ${saving.waiting.length} not saved yet` : "";
  $("progress").textContent = decided + unsaved;
}

function labelled() {
  const useless = state.decided - state.labelled;
  return `${state.labelled} of ${state.images} labelled` + (useless ? `, ${useless} of no use` : "");
}

function counted({ decided, labelled, classes }) {
  Object.assign(state, { decided, labelled });
  const button = $("views").querySelector('[data-view="decided"]');
  button.textContent = `${TITLES.decided} (${decided})`;
  if (classes.length !== $("names").children.length) setClasses(classes);
  $("first").hidden = classes.length > 0;
  where();
}

function setClasses(classes) {
  state.classes = classes;
  const chosen = $("class").value;
  const options = () => classes.map((name) => new Option(name, name));
  $("class").replaceChildren(new Option("all", ""), ...options());
  $("class").value = chosen;
  $("names").replaceChildren(...options());
  $("classes").replaceChildren(...classes.slice(0, DIGITS.length).map((name, at) => {
    const button = element("button");
    button.type = "button";
    button.append(element("kbd", "", DIGITS[at]), ` ${name}`);
    button.addEventListener("click", () => decide("relabel", name));
    return button;
  }));
}

// --- the large picture

function enlarge() {
  const item = list.current;
  if (!item) return;
  const nearby = [1, 2, -1].map((step) => list.ids[list.at + step]);
  $("header").inert = $("overview").inert = true;
  viewer.show(item.id, item.image, nearby.filter((id) => id !== undefined));
  if (!$("viewer").contains(document.activeElement)) $("viewer").focus();
  caption();
}

function shrink() {
  viewer.close();
  $("header").inert = $("overview").inert = false;
  go(list.at);
}

function zoomed({ own, about }) {
  $("own").setAttribute("aria-pressed", String(own));
  size = about;
  caption();
}

function caption() {
  const item = list.current;
  if (!viewer.open || !item) return;
  const said = lines(item).map(([, text]) => text);
  if (list.picked.has(item.id)) said.push("selected");
  $("caption").textContent = [...said, size].filter(Boolean).join(" · ");
}

const zooming = (how) => () => (viewer.open ? how() : enlarge());

function arrow(across, down) {
  if (!viewer.open) move(across + down * grid.columns);
  else if (viewer.hidden[across ? 0 : 1]) viewer.pan(across / 4, down / 4);
  else move(across + down);
}

// --- several at once

function clicked(position, event) {
  if (event.shiftKey) {
    go(position);
    select(() => list.pickRange(list.anchor, position));
    return;
  }
  list.anchor = position;
  go(position);
  if (event.ctrlKey || event.metaKey || selecting) select(() => list.pick(list.ids[position]));
  else if (event.target.tagName === "IMG") enlarge();
}

function select(how) {
  how();
  grid.showPicked();
  where();
  caption();
}

async function extend(step) {
  await go(list.at + step);
  select(() => list.pickRange(list.anchor, list.at));
}

function selectAll() {
  const [first, last] = grid.loaded;
  select(() => list.pickRange(first, last));
  const rest = list.picked.size < list.length ? " Those that are not loaded yet are not selected." : "";
  say(`${list.picked.size} of ${list.length} selected.${rest}`);
}

// What a decision is about: the large picture, or else the selected images, or else the current one.
function chosen() {
  if (viewer.open || !list.picked.size) return grid.has(list.at) ? [list.current] : [];
  return list.ids.filter((id) => list.picked.has(id)).map((id) => list.items.get(id));
}

const named = (items) => (items.length === 1 ? items[0].image : `${items.length} images`);

// --- decisions

function decide(action, label = null, made = false) {
  const items = chosen();
  if (!items.length) {
    say(list.length ? "The image is not loaded yet." : "There is no image here.");
    return;
  }
  if (action === "accept" && items.some((item) => (item.given ?? item.label) === null)) {
    say("There is no label yet that could be right: choose a class.");
    return;
  }
  undone = [];
  send({ action, label, new: made, items });
  const last = list.ids.indexOf(items.at(-1).id);
  select(() => items.forEach((item) => list.pick(item.id, false)));
  go(last + 1);
  list.anchor = list.at;
}

function send({ items, ...decision }) {
  const mine = list;
  for (const item of items) {
    const label = decision.action === "accept" ? item.given ?? item.label : decision.label;
    item.unsaved = { action: decision.action, label };
    list.decided.add(item.id);
    grid.redraw(item.id);
  }
  where();
  const words = decision.action === "accept" ? "right" : told(decision);
  saving.add({
    ids: items.map((item) => item.id),
    words: `${words}: ${named(items)}`,
    body: () => ({
      ...decision,
      file: state.file,
      ids: items.map((item) => item.id),
      before: items.map((item) => (mine.items.get(item.id) ?? item).decision),
    }),
  });
}

const undo = () => saving.add({ ids: [], once: true, body: () => ({ action: "undo", file: state.file }) });

async function redo() {
  await saving.settled; // what is being taken back right now can be made again
  if (undone.length) send(undone.pop());
  else say("There is nothing to make again.");
}

function saved(step, answer) {
  stuck = false;
  redraw(answer.items);
  counted(answer);
  if (!step.once) {
    const all = list.length && !list.undecided ? " Every image of this list is decided." : "";
    say(`Saved: ${step.words}.${all}`);
    return;
  }
  if (!answer.undone) {
    say("There is nothing to take back.");
    return;
  }
  const { ids, ...decision } = answer.undone;
  if (ids.length) undone.push({ ...decision, items: answer.items });
  const words = decision.action === "accept" ? "right" : told(decision);
  say(`Taken back: ${words}${ids.length ? `, ${named(answer.items)}` : ""}.`);
  const at = list.ids.indexOf(ids[0]);
  if (at >= 0) go(at);
}

function redraw(items) {
  list.update(items);
  for (const { id } of items) grid.redraw(id);
  caption();
}

function refused({ ids, once }, error) {
  stuck = false;
  say(`Not ${once ? "taken back" : "saved"}: ${error.message}`, true);
  askAgain(ids).catch(fail);
}

async function askAgain(ids) {
  for (let first = 0; first < ids.length; first += PAGE) {
    redraw((await ask(`/api/items?ids=${ids.slice(first, first + PAGE)}`)).items);
  }
  where();
}

function delayed(error) {
  stuck = true;
  where();
  const one = saving.waiting.length === 1;
  const what = one ? "1 decision is" : `${saving.waiting.length} decisions are`;
  say(`${what} not saved yet, and will be sent again: ${error.message}`, true);
}

// --- keys and buttons

function choosing() {
  const items = chosen();
  if (items.length) choose(state.classes, named(items));
}

function otherView(step) {
  const names = state.views.map((known) => known.name);
  open(names[(names.indexOf(view) + step + names.length) % names.length]);
}

function digit(at) {
  if (at < state.classes.length) decide("relabel", state.classes[at]);
  else say(`No class has the key ${DIGITS[at]}. Press C and type its name.`);
}

const commands = {
  accept: () => decide("accept"),
  reject: () => decide("reject"),
  other: choosing,
  undo,
  redo,
  left: () => arrow(-1, 0),
  right: () => arrow(1, 0),
  up: () => arrow(0, -1),
  down: () => arrow(0, 1),
  previous: () => move(-1),
  next: () => move(1),
  first: () => go(0),
  last: () => go(list.length - 1),
  nextUndecided,
  enlarge: () => (viewer.open ? shrink() : enlarge()),
  zoomIn: zooming(() => viewer.zoomBy(1.5)),
  zoomOut: zooming(() => viewer.zoomBy(1 / 1.5)),
  ownSize: zooming(() => viewer.toggleOwn()),
  pick: () => list.current && select(() => list.pick(list.current.id)),
  pickLeft: () => extend(-1),
  pickRight: () => extend(1),
  pickUp: () => extend(-grid.columns),
  pickDown: () => extend(grid.columns),
  pickAll: selectAll,
  back: () => (viewer.open ? shrink() : select(() => list.picked.clear())),
  viewBefore: () => otherView(-1),
  viewAfter: () => otherView(1),
  help: () => $("help").showModal(),
};

function connect() {
  listen({ commands, digit, unknown: (key) => say(`${key} does nothing here. Press ? for the keys.`) });
  const buttons = {
    accept: "accept", reject: "reject", other: "other", undo: "undo", keys: "help", close: "back",
    previous: "previous", next: "next", smaller: "zoomOut", larger: "zoomIn", own: "ownSize",
  };
  for (const [id, command] of Object.entries(buttons)) $(id).addEventListener("click", commands[command]);
  for (const id of ["class", "shown"]) $(id).addEventListener("change", () => open(view));
  $("select").addEventListener("click", () => {
    selecting = !selecting;
    $("select").setAttribute("aria-pressed", String(selecting));
  });
  $("help").addEventListener("keydown", (event) => {
    if (event.key !== "?") return;
    event.stopPropagation(); // or it would open again
    $("help").close();
  });
  prepare((name, made) => decide("relabel", name, made));
  window.addEventListener("beforeunload", (event) => {
    if (saving.waiting.length) event.preventDefault(); // the browser asks
  });
  new ResizeObserver(() => {
    document.documentElement.style.setProperty("--bar", `${$("bar").offsetHeight}px`);
  }).observe($("bar"));
}

async function start() {
  history.replaceState(null, "", "/"); // the token is a cookie now
  state = await ask("/api/state");
  document.title = `${state.labelling ? "Label" : "Review"}: ${state.title}`;
  $("title").textContent = document.title;
  $("facts").textContent = state.sentences.join(" ");
  $("accept").hidden = state.labelling;
  $("help-keys").append(...rows(state.labelling));
  $("file").textContent = state.file;
  for (const place of ["next-run", "train"]) $(place).textContent = state.next_run;
  setClasses(state.classes);
  $("views").append(...state.views.map((known) => {
    const button = element("button", "", `${TITLES[known.name]} (${known.count})`);
    button.type = "button";
    button.dataset.view = known.name;
    button.addEventListener("click", () => open(known.name));
    return button;
  }));
  counted(state);
  connect();
  say(matchMedia("(pointer: coarse)").matches ? "Tap a picture to see it large." : "Press ? for the keys.");
  await show((state.views.find((known) => known.count) ?? state.views[0]).name);
}

start().catch(fail);
