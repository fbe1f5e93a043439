// onnxruntime-web answers about prepared images, in node or in a page.

export async function answers(ort, model, cases, images, views, options) {
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(model, options);
  const found = [];
  for (const input of inputs(ort, cases, images, views)) {
    const { probabilities, energy } = await session.run(input);
    found.push([[...probabilities.data], energy.data[0]]);
  }
  return found;
}

function* inputs(ort, { view, shapes }, images, views) {
  if (view) {
    const length = view.reduce((product, side) => product * side);
    for (let at = 0; at < views.byteLength; at += 4 * length) {
      yield { view: new ort.Tensor("float32", new Float32Array(views, at, length), view) };
    }
    return;
  }
  let at = 0;
  for (const [height, width] of shapes) {
    const pixels = new Uint8Array(images, at, 3 * height * width);
    yield { images: new ort.Tensor("uint8", pixels, [1, height, width, 3]) };
    at += pixels.length;
  }
}
