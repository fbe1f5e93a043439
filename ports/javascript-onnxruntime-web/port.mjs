// A model of tutelage in onnxruntime-web. It proves itself on the golden images, then classifies
// yours.
//
// npm ci
// node port.mjs model.onnx.json [IMAGE...]
//
// `tutelage export MODEL --portable` writes the description, the model and the golden images. The
// functions without files run in a page as well: there, pixels come from a canvas.

import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import ort from "onnxruntime-web";
import sharp from "sharp";

/** The usual file: pixels of any size -> probabilities, one a class, and the energy. */
async function load(path) {
  const session = await ort.InferenceSession.create(readFileSync(path));
  return async ({ data, width, height }) => {
    const images = new ort.Tensor("uint8", data, [1, height, width, 3]);
    const { probabilities, energy } = await session.run({ images });
    return { probabilities: [...probabilities.data], energy: energy.data[0] };
  };
}

/** Upright RGB pixels, on white where the image is transparent. */
async function read(path) {
  const image = sharp(path).rotate().flatten({ background: "white" }).toColourspace("srgb");
  const { data, info } = await image.raw().toBuffer({ resolveWithObject: true });
  return { data: new Uint8Array(data), width: info.width, height: info.height };
}

/** The likeliest class, or the one that the model's decision threshold gives. */
function labelOf(probabilities, { classes, decision_threshold: threshold }) {
  const of = (name) => probabilities[classes.indexOf(name)];
  const likeliest = (names) => names.reduce((a, b) => (of(b) > of(a) ? b : a));
  if (threshold === null) return likeliest(classes);
  const [name, least] = threshold;
  return of(name) >= least ? name : likeliest(classes.filter((other) => other !== name));
}

/** Whether the answers to the golden images in a folder are the ones that are written there. */
async function prove(model, described, folder) {
  const golden = JSON.parse(readFileSync(join(folder, "golden.json"), "utf8"));
  let [probability, energy] = [0, 0];
  for (const known of golden.images) {
    const found = await model(await read(join(folder, known.image)));
    const apart = found.probabilities.map((p, k) => Math.abs(p - known.probabilities[k]));
    probability = Math.max(probability, ...apart);
    energy = Math.max(energy, Math.abs(found.energy - known.energy));
    if (labelOf(known.probabilities, described) !== known.label)
      fail(`${known.image}: the rule for labels differs`);
  }
  const apart = `${probability.toPrecision(2)}, of an energy ${energy.toPrecision(2)}`;
  console.log(`largest difference of a probability ${apart}`);
  // The tolerance is of a probability, which a logit moves by a quarter at most.
  return probability <= golden.tolerance && energy <= 4 * golden.tolerance;
}

function fail(why) {
  console.error(why);
  process.exit(1);
}

const [description, ...images] = process.argv.slice(2);
if (description === undefined) fail("node port.mjs model.onnx.json [IMAGE...]");
const folder = dirname(description);
const described = JSON.parse(readFileSync(description, "utf8"));
const model = await load(join(folder, described.files.onnx));
if (!(await prove(model, described, join(folder, "golden"))))
  fail("these answers are not the model's");
for (const path of images) {
  const { probabilities, energy } = await model(await read(path));
  const limit = described.unknown_threshold;
  const unknown = limit !== null && energy > limit;
  console.log(`${path}: ${unknown ? "unknown" : labelOf(probabilities, described)}`);
}
