"use strict";
// What the page can do beyond being read: without this script it shows the same things.

const zoom = document.getElementById("zoom");
for (const picture of document.querySelectorAll(".sheet img")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "enlarge";
  picture.replaceWith(button);
  button.append(picture);
  button.addEventListener("click", () => {
    const large = zoom.querySelector("img");
    large.src = picture.src;
    large.alt = picture.alt;
    zoom.querySelector("p").textContent = picture.alt;
    zoom.showModal(); // Escape closes it, and the focus goes back to the button
  });
}
zoom.addEventListener("click", () => zoom.close());

// The threshold for the costs that are entered; report/threshold.py says why it is so computed.
const costs = document.getElementById("costs");
if (costs) {
  const figures = JSON.parse(costs.dataset.figures);
  const [ratio, share, least] = ["ratio", "share", "least"].map((id) => document.getElementById(id));
  const odds = (p) => Math.log(p / (1 - p));
  const probability = (logit) => 1 / (1 + Math.exp(-logit));
  const inside = (p) => Math.min(1 - 1e-4, Math.max(1e-4, p));
  const mean = (logits, shift) =>
    logits.reduce((sum, logit) => sum + probability(logit + shift), 0) / logits.length;

  // What is added to the logits, so that held-out labels are as frequent as the probabilities say.
  const shift = (frequency) => {
    const [own, other] = figures.held.map((probs) => probs.map((p) => odds(inside(p))));
    if (!own.length || !other.length) return 0;
    let [low, high] = [-20, 20];
    while (high - low > 1e-6) {
      const middle = (low + high) / 2;
      const said = frequency * mean(own, middle) + (1 - frequency) * mean(other, middle);
      if (said > frequency) high = middle;
      else low = middle;
    }
    return low;
  };
  // The saving of a threshold against one half on held-out labels, weighted to the frequency, and
  // what it must exceed: images that are called differently, each as likely a gain as a loss.
  const saving = (limit, cost, frequency) => {
    const weights = figures.held.map((probs, of) =>
      of === 0 ? cost * frequency / probs.length : -(1 - frequency) / probs.length);
    const changes = figures.held.flatMap((probs, of) =>
      probs.map((p) => ((p >= limit) - (p >= 0.5)) * weights[of]));
    return {
      value: changes.reduce((sum, change) => sum + change, 0),
      chance: 1.645 * Math.hypot(...changes),
    };
  };
  const recommend = () => {
    if (!ratio.validity.valid || !share.validity.valid) return;
    const [cost, frequency] = [Number(ratio.value), Number(share.value) / 100];
    const exact = probability(odds(1 / (1 + cost)) - shift(frequency));
    const text = Math.min(0.99, Math.max(0.01, exact)).toFixed(2);
    const judged = figures.held.every((probs) => probs.length > 0);
    const found = saving(Number(text), cost, frequency);
    const better = text !== "0.50" && (!judged || found.value > found.chance);
    least.value = better ? text : "0.50";
    const advice = document.getElementById("advice");
    if (better) advice.textContent = `Recommended: ${text}.`;
    else if (text === "0.50") advice.textContent = "Recommended: 0.50, the default.";
    else {
      const labels = `${figures.held.flat().length} held-out labels`;
      const why = found.value > 0
        ? `${labels} are too few to tell whether it is cheaper, so 0.50 stays.`
        : `on the ${labels} it is not cheaper, so 0.50 stays.`;
      advice.textContent =
        `Recommended: 0.50, the default. The estimate for these costs is ${text}, but ${why}`;
    }
    show();
  };
  const falseAlarms = (count) => `${count} false ${count === 1 ? "alarm" : "alarms"}`;
  const show = () => {
    const text = Number(least.value).toFixed(2);
    const at = Math.round(100 * Number(least.value));
    const [missed, alarms] = [figures.missed[at], figures.false_alarms[at]];
    const cost = (step) =>
      Number(ratio.value) * figures.missed[step] + figures.false_alarms[step];
    document.getElementById("least-words").textContent = text;
    const elsewhere = at === 50 ? "" : ` At 0.50 it would be ${Math.round(cost(50))}.`;
    document.getElementById("effect").textContent =
      `On the test images the threshold ${text} misses ${missed} of ${figures.positives} ` +
      `“${figures.positive}” and raises ${falseAlarms(alarms)} among ${figures.negatives} ` +
      `“${figures.negative}”: together they cost as much as ` +
      `${falseAlarms(Math.round(cost(at)))}.${elsewhere}`;
    for (const words of document.querySelectorAll(".threshold-text")) {
      words.textContent = words.textContent.replace(/[\d.]+('?)$/, `${text}$1`);
    }
  };
  costs.hidden = false;
  ratio.addEventListener("input", recommend);
  share.addEventListener("input", recommend);
  least.addEventListener("input", show);
  document.getElementById("recommended").addEventListener("click", recommend);
  recommend();
}
