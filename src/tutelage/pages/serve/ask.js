// The page of `tutelage serve`: each picture is sent to /predict.

import { answerBy, introduce, say } from "./pictures.js";

const $ = (id) => document.getElementById(id);
let model = null; // what /health says

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

const sentence = (reason) => `${reason[0].toUpperCase()}${reason.slice(1)}.`;

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
  const [{ label, rejected, probabilities }] = content.predictions;
  const threshold = model.decision_threshold && Object.entries(model.decision_threshold)[0];
  return { label, rejected, probabilities: Object.entries(probabilities), threshold, milliseconds };
}

async function start() {
  $("curl").textContent = `curl --data-binary @photo.jpg ${new URL("predict", location.href)}`;
  answerBy(predict);
  try {
    model = (await request("health")).content;
  } catch (error) {
    say(error.message, true);
    return;
  }
  introduce(model.model, model.classes, "Your pictures go to this server only, and it does not keep them.");
}

start();
