// The page of `tutelage export --web`: the model runs in this browser, and no picture leaves it.

import { prepareCamera } from "./camera.js";
import { Model } from "./model.js";
import { answerBy, introduce, say } from "./pictures.js";
import { pixelsOf } from "./pixels.js";

async function start() {
  let model;
  try {
    model = await Model.open();
  } catch (error) {
    say(`The model cannot be loaded: ${error.message}`, true);
    return;
  }
  const predict = async (pixels) => {
    const began = performance.now();
    const answer = await model.predict(await pixels());
    return { ...answer, milliseconds: performance.now() - began };
  };
  introduce("The model", model.classes, "It runs in this browser, and your pictures do not leave it.");
  answerBy((file) => predict(() => pixelsOf(file)));
  prepareCamera(predict);
}

start();
