// The page of `tutelage export --web`: the model runs in this browser, and no picture leaves it.

import { prepareCamera } from "./camera.js";
import { Model } from "./model.js";
import { answerBy, introduce, say } from "./pictures.js";
import { pixelsOf } from "./pixels.js";

// Pictures can be chosen at once, and wait for the model.
const opening = Model.open().catch((error) => {
  throw new Error(`The model cannot be loaded: ${error.message}`);
});

async function predict(pixels) {
  const model = await opening;
  const began = performance.now();
  const answer = await model.predict(await pixels());
  return { ...answer, milliseconds: performance.now() - began };
}

answerBy((file) => predict(() => pixelsOf(file)));
prepareCamera(predict);
opening.then(
  ({ classes }) => introduce("The model", classes, "It runs in this browser, and your pictures do not leave it."),
  (error) => {
    document.getElementById("about").textContent = "";
    say(error.message, true);
  },
);
