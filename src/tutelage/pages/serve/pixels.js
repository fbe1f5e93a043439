// A picture's upright RGB pixels, as tutelage decodes them: turned by its EXIF orientation, on a white
// ground, and without its colour profile.

const MOST_PIXELS = 50_000_000; // as many as `tutelage serve` takes
const STRIP_PIXELS = 4_000_000; // read at once: some browsers give up on larger canvases without a word

// The pixels of a file: { data, width, height }, data being a Uint8Array (height, width, 3).
export async function pixelsOf(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch {
    throw new Error(
      "The browser cannot read this as a picture. It is damaged, or of a kind that browsers do not show, " +
        "such as TIFF or HEIC; save it as JPEG or PNG.",
    );
  }
  try {
    return read(bitmap, bitmap.width, bitmap.height);
  } finally {
    bitmap.close();
  }
}

// The pixels of what a canvas can draw: a bitmap, or the present picture of a video.
export function read(source, width, height) {
  if (width * height > MOST_PIXELS) {
    const millions = Math.round((width * height) / 1e6);
    throw new Error(`The picture has ${millions} million pixels; the page takes 50 million at most. Scale it down.`);
  }
  const data = new Uint8Array(3 * width * height);
  const rows = Math.max(1, Math.min(height, Math.floor(STRIP_PIXELS / width)));
  const context = whiteCanvas(width, rows);
  let to = 0;
  for (let top = 0; top < height; top += rows) {
    context.fillRect(0, 0, width, rows);
    context.drawImage(source, 0, -top, width, height);
    const rgba = context.getImageData(0, 0, width, Math.min(rows, height - top)).data;
    for (let from = 0; from < rgba.length; from += 4) {
      data[to++] = rgba[from];
      data[to++] = rgba[from + 1];
      data[to++] = rgba[from + 2];
    }
  }
  return { data, width, height };
}

// A canvas to draw on, which stays opaque: what is transparent in a picture shows the white below it.
function whiteCanvas(width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.fillStyle = "rgb(20 120 220)";
  context.fillRect(0, 0, 1, 1);
  const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
  if (Math.max(Math.abs(red - 20), Math.abs(green - 120), Math.abs(blue - 220)) > 5) {
    throw new Error(
      "This browser hides the pixels of pictures from pages (a setting against being recognised). " +
        "Let this page read canvases, or use another browser.",
    );
  }
  context.fillStyle = "white";
  return context;
}
