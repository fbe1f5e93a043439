// The pictures that a person chooses, drops or pastes: each gets a card, and they are asked about one
// after the other.

import { card, fail, picture, tell } from "./cards.js";

const $ = (id) => document.getElementById(id);
let predict = null; // (file) -> the answer that a card tells
let asked = 0;
let answered = 0;
let queue = Promise.resolve();

export function say(text, failed = false) {
  $("status").textContent = text;
  $("status").className = failed ? "failed" : "muted";
}

// What the page says about a model.
export function introduce(name, classes, privacy) {
  const more = classes.length > 30 ? ` and ${classes.length - 30} more` : "";
  $("about").textContent =
    `${name} knows ${classes.length} classes: ${classes.slice(0, 30).join(", ")}${more}. ${privacy}`;
}

export function ask(files) {
  if (!files.length) return;
  const cards = files.map((file) => card(picture(file), file.name));
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
    answered += 1;
  } catch (error) {
    told = fail(made, error.message);
  }
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

// From now on pictures are answered by `predict`; what it throws is told on the picture's card.
export function answerBy(model) {
  predict = model;
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
}
