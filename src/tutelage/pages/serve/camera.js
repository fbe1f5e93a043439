// The camera: a card whose answer follows what the camera sees.

import { card, element, fail, tell } from "./cards.js";
import { ask, say } from "./pictures.js";
import { read } from "./pixels.js";

const $ = (id) => document.getElementById(id);
const REASONS = {
  NotAllowedError: "The browser does not lend this page the camera. Allow it in the browser's settings for this page.",
  NotFoundError: "No camera was found.",
  NotReadableError: "Another program uses the camera.",
};

// The button that starts it is shown where browsers lend a camera: on pages from https, or this machine.
export function prepareCamera(predict) {
  if (!navigator.mediaDevices) return;
  $("photograph").hidden = true;
  $("live").hidden = false;
  $("live").addEventListener("click", () => start(predict));
}

async function start(predict) {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    say(REASONS[error.name] ?? `The camera cannot be used: ${error.message}`, true);
    return;
  }
  const video = Object.assign(element("video"), { srcObject: stream, muted: true, playsInline: true });
  video.setAttribute("aria-label", "What the camera sees");
  const made = card(video, "Camera");
  made.firstChild.append(buttons(video, () => stop(made, stream)));
  $("seen").replaceChildren(made);
  $("live").hidden = true;
  made.querySelector("button").focus();
  await video.play();
  follow(video, made, predict);
}

function buttons(video, stopped) {
  const place = element("p", "buttons");
  for (const [text, pressed] of [["Take a picture", () => keep(video)], ["Stop", stopped]]) {
    const button = Object.assign(element("button", "", text), { type: "button" });
    button.addEventListener("click", pressed);
    place.append(button);
  }
  return place;
}

async function follow(video, made, predict) {
  while (made.isConnected) {
    try {
      tell(made, await predict(() => read(video, video.videoWidth, video.videoHeight)));
    } catch (error) {
      fail(made, error.message);
      return;
    }
    await new Promise(requestAnimationFrame); // the page can be used in between, and rests when hidden
  }
}

function keep(video) {
  const shown = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
  shown.getContext("2d").drawImage(video, 0, 0);
  shown.toBlob((blob) => ask([new File([blob], "Camera picture")]));
}

function stop(made, stream) {
  for (const track of stream.getTracks()) track.stop();
  made.remove();
  $("live").hidden = false;
  $("live").focus();
}
