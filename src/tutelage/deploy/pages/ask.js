"use strict";
// Each picture is sent to /predict, and its answer becomes a card. Names are set as text, never as markup.

const $ = (id) => document.getElementById(id);
const SHOWN = 12; // bars of a card; the others are folded away
let model = null; // what /health says
let asked = 0;
let answered = 0;
let queue = Promise.resolve(); // one picture after the other

function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function percent(share) {
  if (share > 0.999 && share < 1) return "> 99.9%";
  if (share < 0.001 && share > 0) return "< 0.1%";
  return `${(100 * share).toFixed(1)}%`;
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

const sentence = (reason) => `${reason[0].toUpperCase()}${reason.slice(1)}.`;

// --- the server

async function request(address, options) {
  let response;
  try {
    response = await fetch(address, options);
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const content = await response.json().catch(() => ({}));
  const reason = content.error ?? content.predictions?.[0].error;
  if (!response.ok) throw new Error(reason ? sentence(reason) : `The server answered with status ${response.status}.`);
  return { content, milliseconds: Number(/dur=([\d.]+)/.exec(response.headers.get("Server-Timing"))?.[1]) };
}

async function predict(file) {
  model ??= (await request("health")).content;
  if (file.size > model.max_bytes) {
    throw new Error(`The file has ${megabytes(file.size)}; the server takes ${megabytes(model.max_bytes)} at most.`);
  }
  const body = await file.arrayBuffer().catch(() => {
    throw new Error("The browser cannot read this. Is it a folder?");
  });
  const { content, milliseconds } = await request(model.rejects ? "predict?reject=true" : "predict", {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream" },
    body,
  });
  return { ...content.predictions[0], milliseconds };
}

async function introduce() {
  try {
    model = (await request("health")).content;
  } catch (error) {
    say(error.message, true);
    return;
  }
  const names = model.classes.slice(0, 30).join(", ");
  const more = model.classes.length > 30 ? ` and ${model.classes.length - 30} more` : "";
  $("about").textContent = `${model.model} knows ${model.classes.length} classes: ${names}${more}. ` +
    "Your pictures go to this server only, and it does not keep them.";
}

// How the model decides where it does not take the most probable class.
function threshold() {
  const [[name, least]] = Object.entries(model.decision_threshold);
  return `the model says ${name} from a probability of ${Number((100 * least).toFixed(1))}% on, and not below`;
}

// --- the cards

function card(file) {
  const made = element("li");
  const figure = element("figure");
  const image = element("img");
  image.src = URL.createObjectURL(file);
  image.alt = file.name;
  image.decoding = "async";
  image.addEventListener("error", () => {
    image.replaceWith(element("p", "muted", "This browser cannot show the picture."));
  });
  figure.append(image, element("figcaption", "", file.name));
  made.append(figure, element("div", "answer"));
  made.lastChild.append(element("p", "muted", "Waiting for the answer"));
  return made;
}

function tell(made, prediction) {
  const { label, rejected, probabilities, milliseconds } = prediction;
  const shares = Object.entries(probabilities).sort((a, b) => b[1] - a[1]);
  const parts = [element("h2", rejected ? "unknown" : "", label)];
  if (rejected) {
    parts.push(element("p", "", `It looks like none of the classes. The nearest is ${shares[0][0]}.`));
  }
  if (!rejected && label !== shares[0][0]) {
    parts.push(element("p", "", `${shares[0][0]} is more probable, but ${threshold()}.`));
  }
  parts.push(table(shares.slice(0, SHOWN), label, "Probabilities"));
  if (shares.length > SHOWN) {
    const rest = element("details");
    rest.append(element("summary", "", `The other ${shares.length - SHOWN} classes`));
    rest.append(table(shares.slice(SHOWN), label, "Other probabilities"));
    parts.push(rest);
  }
  parts.push(element("p", "muted", `Answered in ${milliseconds.toFixed(0)} ms`));
  made.lastChild.replaceChildren(...parts);
  return rejected ? label : `${label}, ${percent(probabilities[label])}`;
}

function table(shares, label, title) {
  const made = element("table", "probabilities");
  made.createCaption().textContent = title;
  const body = made.createTBody();
  for (const [name, share] of shares) {
    const row = body.insertRow();
    if (name === label) row.className = "chosen";
    const head = element("th", "", name);
    head.scope = "row";
    const bar = element("div", "bar");
    bar.append(element("div"));
    bar.firstChild.style.width = `${100 * share}%`;
    row.append(head);
    row.insertCell().append(bar);
    const figure = row.insertCell();
    figure.className = "figure";
    figure.textContent = percent(share);
  }
  return made;
}

function fail(made, message) {
  made.lastChild.replaceChildren(element("h2", "failed", "No answer"), element("p", "", message));
  return "no answer";
}

function say(text, failed = false) {
  $("status").textContent = text;
  $("status").className = failed ? "failed" : "muted";
}

// --- what the person does

function ask(files) {
  if (!files.length) return;
  const cards = files.map(card);
  $("answers").prepend(...cards);
  $("clear").hidden = false;
  cards[0].scrollIntoView({ block: "nearest" });
  asked += files.length;
  files.forEach((file, k) => {
    queue = queue.then(() => answer(file, cards[k]));
  });
}

async function answer(file, made) {
  if (!made.isConnected) return; // cleared while it waited
  let told;
  try {
    told = tell(made, await predict(file));
  } catch (error) {
    told = fail(made, error.message);
  }
  answered += 1;
  say(asked === 1 ? `${file.name}: ${told}` : `${answered} of ${asked} answered. ${file.name}: ${told}`);
}

function clear() {
  for (const image of $("answers").querySelectorAll("img")) URL.revokeObjectURL(image.src);
  $("answers").replaceChildren();
  $("clear").hidden = true;
  asked = answered = 0;
  say("");
  $("choose").focus();
}

for (const [button, input] of [["choose", "files"], ["photograph", "camera"]]) {
  $(button).addEventListener("click", () => $(input).click());
  $(input).addEventListener("change", () => {
    ask([...$(input).files]);
    $(input).value = ""; // so that the same file can be chosen again
  });
}
$("clear").addEventListener("click", clear);

document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  const files = [...event.dataTransfer.files];
  if (!files.length) say("That was no file. Save the picture first, then drop its file here.", true);
  ask(files);
});
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (!files.length) say("There is no picture in the clipboard.", true);
  ask(files);
});

$("curl").textContent = `curl --data-binary @photo.jpg ${new URL("predict", location.href)}`;
introduce();
