"use strict";
// What the page can do beyond being read: without this script it shows the same things.

const cloud = document.getElementById("cloud");
if (cloud) {
  const marks = [...cloud.querySelectorAll("[data-tile]")];
  const tile = document.getElementById("cloud-tile");
  const words = document.getElementById("cloud-words");
  const columns = Number(cloud.dataset.columns);
  const rows = Number(cloud.dataset.rows);
  let chosen = -1;

  const show = (at) => {
    if (chosen >= 0) marks[chosen].classList.remove("chosen");
    chosen = (at + marks.length) % marks.length;
    const mark = marks[chosen];
    mark.classList.add("chosen");
    const number = Number(mark.dataset.tile);
    const x = columns > 1 ? (number % columns) / (columns - 1) : 0;
    const y = rows > 1 ? Math.floor(number / columns) / (rows - 1) : 0;
    tile.style.backgroundPosition = `${100 * x}% ${100 * y}%`;
    tile.hidden = false;
    words.textContent = mark.querySelector("title").textContent;
  };
  const nearest = (event) => {
    let best = -1;
    let least = Infinity;
    marks.forEach((mark, at) => {
      const box = mark.getBoundingClientRect();
      const gap = Math.hypot(
        event.clientX - box.x - box.width / 2, event.clientY - box.y - box.height / 2,
      );
      if (gap < least) { least = gap; best = at; }
    });
    if (least < 40) show(best);
  };
  cloud.addEventListener("pointermove", nearest);
  cloud.addEventListener("pointerdown", nearest);
  cloud.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(chosen < 0 && step < 0 ? marks.length - 1 : chosen + step);
  });
  document.getElementById("cloud-how").hidden = false;
}

for (const sheet of document.querySelectorAll("[data-filters]")) {
  const select = document.createElement("select");
  select.append(new Option("all classes", ""));
  JSON.parse(sheet.dataset.filters).forEach((name, at) => select.append(new Option(name, at)));
  const label = document.createElement("label");
  label.append("Show ", select);
  label.className = "filter";
  sheet.before(label);
  select.addEventListener("change", () => {
    for (const figure of sheet.children) {
      const tags = figure.dataset.tags.split(" ");
      figure.hidden = select.value !== "" && !tags.includes(select.value);
    }
  });
}
