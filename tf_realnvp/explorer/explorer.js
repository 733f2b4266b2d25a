// The page that `tf-realnvp explore` writes. All arrays are flat, in the order
// [n, H, W, C] of the ONNX functions.

const CHUNK = 4; // Images that are decoded at once, and so appear at once.
const MAGMA = [
  [0, 0, 4],
  [81, 18, 124],
  [183, 55, 121],
  [252, 137, 97],
  [252, 253, 191],
];

const $ = (id) => document.getElementById(id);
const product = (sizes) => sizes.reduce((a, b) => a * b, 1);

const info = await (await fetch("model.json")).json();
const [height, width, channels] = info.image_shape;
// Of the classes, if there are any.
const names =
  info.class_names ?? (info.class_probs ?? []).map((_, k) => `${k}`);
const probs = info.class_probs ?? [1];
const dims = product(info.image_shape);
let drawn; // The images of the grid: {label, latents, image}.
let wanted; // What the grid will show: {label, noise}.
let a, b; // The chosen images.
let steps; // The images after each coupling, of A.

// Random numbers

function uniforms(seed) {
  // Mulberry32.
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const random = uniforms(Date.now());

function normals(length) {
  const normal = () =>
    Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  return Float32Array.from({ length }, normal);
}

function randomLabel() {
  let rest = random();
  const label = probs.findIndex((p) => (rest -= p) < 0);
  return Math.max(label, 0);
}

// The model

let runtime;
let sessions;
let last = Promise.resolve();

async function load() {
  runtime = await import("./ort.wasm.min.mjs");
  runtime.env.wasm.numThreads = 1;
  // In a worker, so that the page stays responsive.
  runtime.env.wasm.proxy = true;
  const weights = await (await fetch("weights.bin")).arrayBuffer();
  const session = (name) =>
    runtime.InferenceSession.create(name, {
      externalData: [{ path: "weights.bin", data: new Uint8Array(weights) }],
    });
  sessions = {};
  for (const name of ["decode", "score"])
    sessions[name] = await session(`${name}.onnx`);
}

function run(name, inputs, labels) {
  // One call after the other, as the runtime requires. It takes the values
  // away, so it gets copies.
  const n = labels.length;
  const feeds = {};
  for (const [key, [type, values, shape]] of Object.entries(inputs))
    feeds[key] = new runtime.Tensor(type, values.slice(), [n, ...shape]);
  if (names.length)
    feeds.label = new runtime.Tensor("int32", Int32Array.from(labels), [n]);
  last = last.catch(() => {}).then(() => sessions[name].run(feeds));
  return last;
}

function decode(latents, labels) {
  const inputs = { latents: ["float32", latents, info.latent_shape] };
  return run("decode", inputs, labels);
}

function score(images, noise, labels) {
  return run(
    "score",
    {
      images: ["uint8", images, info.image_shape],
      noise: ["float32", noise, info.image_shape],
    },
    labels,
  );
}

function repeat(values, n) {
  const result = new values.constructor(n * values.length);
  for (let i = 0; i < n; i++) result.set(values, i * values.length);
  return result;
}

const part = (values, i, size = dims) => values.slice(i * size, (i + 1) * size);
const allLabels = () => (names.length ? names.map((_, k) => k) : [0]);

async function encode(image, label) {
  // Each component in the middle of its level, as `RealNVP.encode` does.
  const noise = new Float32Array(dims).fill(0.5);
  return (await score(image, noise, [label])).latents.data;
}

async function scoreClasses(image) {
  // Scores an image given each class, all with the same noise.
  const labels = allLabels();
  const noise = Float32Array.from({ length: dims }, uniforms(0));
  const n = labels.length;
  const result = await score(repeat(image, n), repeat(noise, n), labels);
  const joint = labels.map((k) => result.log_prob.data[k] + Math.log(probs[k]));
  const highest = Math.max(...joint);
  const label = joint.indexOf(highest);
  const sum = joint.reduce((s, x) => s + Math.exp(x - highest), 0);
  const logProb = highest + Math.log(sum);
  return {
    label,
    bits: -logProb / (dims * Math.LN2),
    map: part(result.map.data, label, height * width),
    posterior: joint.map((x) => Math.exp(x - logProb)),
  };
}

// Drawing

function paintColors(canvas, color) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++)
    pixels.data.set([...color(i), 255], 4 * i);
  context.putImageData(pixels, 0, 0);
}

function paint(canvas, image) {
  const zoom = 255 / (info.num_colors - 1);
  paintColors(canvas, (i) =>
    [0, 1, 2].map((c) => zoom * image[channels * i + (c % channels)]),
  );
}

function paintMap(canvas, map) {
  const low = Math.min(...map);
  const high = Math.max(...map);
  paintColors(canvas, (i) => {
    const place = ((map[i] - low) / (high - low || 1)) * (MAGMA.length - 1);
    const first = Math.min(Math.floor(place), MAGMA.length - 2);
    return MAGMA[first].map(
      (v, c) => v + (place - first) * (MAGMA[first + 1][c] - v),
    );
  });
  return [low, high];
}

function smooth(map) {
  // As `bit_maps.smooth` does.
  const clamp = (i, size) => Math.min(Math.max(i, 0), size - 1);
  const at = (row, column) =>
    map[clamp(row, height) * width + clamp(column, width)];
  return map.map((_, i) => {
    const [row, column] = [Math.floor(i / width), i % width];
    let sum = 0;
    for (const [dr, wr] of [
      [-1, 1],
      [0, 2],
      [1, 1],
    ])
      for (const [dc, wc] of [
        [-1, 1],
        [0, 2],
        [1, 1],
      ])
        sum += wr * wc * at(row + dr, column + dc);
    return sum / 16;
  });
}

// Coalesces calls: while one is under way, only the last of the others is made.
function live(work) {
  let isBusy = false;
  let isWaiting = false;
  return async () => {
    isWaiting = true;
    if (isBusy) return;
    isBusy = true;
    try {
      while (isWaiting) {
        isWaiting = false;
        await work(() => isWaiting);
      }
    } catch (error) {
      fail(error);
    } finally {
      isBusy = false;
    }
  };
}

function fail(error) {
  $("status").textContent =
    `The model cannot be run: ${error.message ?? error}`;
}

// Sample

function makeGrid() {
  $("samples").replaceChildren(
    ...drawn.map((_, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(document.createElement("canvas"));
      button.addEventListener("click", () => choose(drawn[i]));
      return button;
    }),
  );
  drawn.forEach((_, i) => showSample(i));
}

function showSample(i) {
  const button = $("samples").children[i];
  const name = names.length ? `: ${names[drawn[i].label]}` : "";
  button.title = names[drawn[i].label] ?? "";
  button.setAttribute("aria-label", `Sample ${i + 1}${name}`);
  paint(button.firstChild, drawn[i].image);
  showRoles();
}

function showRoles() {
  drawn.forEach((sample, i) => {
    const button = $("samples").children[i];
    if (sample === a) button.dataset.role = "A";
    else if (sample === b) button.dataset.role = "B";
    else delete button.dataset.role;
    button.setAttribute("aria-pressed", sample === a || sample === b);
  });
}

const decodeSamples = live(async (isStale) => {
  const temperature = Number($("temperature").value);
  for (let i = 0; i < wanted.length && !isStale(); i += CHUNK) {
    const chunk = wanted.slice(i, i + CHUNK);
    const all = chunk.flatMap(({ noise }) => [...noise]);
    const latents = Float32Array.from(all, (z) => temperature * z);
    const labels = chunk.map(({ label }) => label);
    const { images } = await decode(latents, labels);
    labels.forEach((label, k) => {
      const image = part(images.data, k);
      drawn[i + k] = { label, image, latents: part(latents, k) };
      showSample(i + k);
    });
  }
});

function draw() {
  const label = Number($("class").value);
  wanted = wanted.map(() => ({
    noise: normals(dims),
    label: label >= 0 ? label : randomLabel(),
  }));
  decodeSamples();
}

function showTemperature() {
  $("temperature-value").textContent = Number($("temperature").value).toFixed(
    2,
  );
}

// A and B

function choose(image) {
  if (image === a) return;
  b = a;
  setA(image);
}

function setA(image) {
  a = image;
  showRoles();
  showEnds();
  move();
  flow();
  scoreA();
  if (names.length) turn();
}

function showEnds() {
  for (const [id, image] of [
    ["a", a],
    ["b", b],
  ]) {
    paint($(id), image.image);
    const name = names[image.label] ?? "";
    $(id).setAttribute("aria-label", `Image ${id.toUpperCase()} ${name}`);
  }
}

// Move

function slerp(start, end, t) {
  // As `latents.slerp` does.
  let [dot, startNorm, endNorm] = [0, 0, 0];
  for (let i = 0; i < start.length; i++) {
    dot += start[i] * end[i];
    startNorm += start[i] ** 2;
    endNorm += end[i] ** 2;
  }
  let [u, v] = [1 - t, t];
  const cosine = dot / (Math.sqrt(startNorm * endNorm) || 1);
  const angle = Math.acos(Math.min(Math.max(cosine, -1), 1));
  if (Math.sin(angle) > 1e-6)
    [u, v] = [u, v].map((w) => Math.sin(w * angle) / Math.sin(angle));
  return start.map((value, i) => u * value + v * end[i]);
}

let ends = {}; // The latents of A and B, both as images of the class of A.

const move = live(async () => {
  const [from, to] = [a, b];
  if (ends.from !== from || ends.to !== to) {
    const isSame = from.label === to.label;
    const latents = isSame ? to.latents : await encode(to.image, from.label);
    ends = { from, to, latents };
  }
  const t = Number($("place").value);
  const depth = info.latent_shape[2];
  const kind = $("kind").value;
  const moved = slerp(from.latents, ends.latents, t).map((value, i) => {
    const isFine = i % depth >= depth / 2;
    const isMoved = kind === "all" || (kind === "fine") === isFine;
    return isMoved ? value : from.latents[i];
  });
  const { images } = await decode(moved, [from.label]);
  paint($("moved"), images.data);
  $("place-value").textContent = `${Math.round(100 * t)} %`;
});

// Turn into

const turn = live(async () => {
  const { images } = await decode(repeat(a.latents, names.length), allLabels());
  names.forEach((_, k) =>
    paint($("turned").children[k].firstChild, part(images.data, k)),
  );
});

function makeTurned() {
  $("turned").replaceChildren(
    ...names.map((name) => {
      const figure = document.createElement("figure");
      const canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `A as ${name}`);
      const caption = document.createElement("figcaption");
      caption.textContent = name;
      figure.append(canvas, caption);
      return figure;
    }),
  );
}

// Score

const scoreA = live(async () => {
  const { image } = a;
  const result = await scoreClasses(image);
  const latents = await encode(image, result.label);
  const decoded = await decode(latents, [result.label]);
  const changed = image.filter((v, i) => v !== decoded.images.data[i]).length;
  paint($("scored"), image);
  paint($("recovered"), decoded.images.data);
  $("exact").textContent = changed
    ? `${changed} of ${dims} differ`
    : "the same";
  const range = paintMap($("map"), smooth(result.map));
  $("map-range").textContent = range.map((v) => v.toFixed(1)).join(" to ");
  $("bits").textContent = `${result.bits.toFixed(3)} bits/dim`;
  showHistogram(result.bits);
  if (names.length) showLikeliest(result.posterior);
});

function showLikeliest(posterior) {
  const order = allLabels().sort((k, l) => posterior[l] - posterior[k]);
  $("likeliest").replaceChildren(
    ...order.slice(0, 3).map((k) => {
      const row = document.createElement("tr");
      const bar = document.createElement("div");
      bar.style.width = `${100 * posterior[k]}%`;
      for (const content of [
        names[k],
        `${(100 * posterior[k]).toFixed(1)} %`,
        bar,
      ])
        row.insertCell().append(content);
      return row;
    }),
  );
}

function showHistogram(bits) {
  const all = info.bits_per_dim;
  if (!all.length) return;
  const below = all.filter((v) => v < bits).length / all.length;
  const share = Math.round(100 * below);
  $("rank").textContent = `more than ${share} % of ${all.length} test images`;
  const low = Math.min(all[0], bits);
  const high = Math.max(all.at(-1), bits);
  const place = (v) => (v - low) / (high - low);
  const counts = new Array(40).fill(0);
  for (const v of all) counts[Math.min(Math.floor(40 * place(v)), 39)]++;
  const most = Math.max(...counts);
  const bars = counts.map((count, i) => {
    const size = (90 * count) / most;
    return `<rect x="${12 * i}" y="${95 - size}" width="11" height="${size}"/>`;
  });
  const x = 480 * place(bits);
  $("bars").innerHTML =
    bars.join("") + `<line x1="${x}" x2="${x}" y1="0" y2="95" />`;
  $("low").textContent = low.toFixed(1);
  $("high").textContent = `${high.toFixed(1)} bits/dim`;
  $("histogram").hidden = false;
}

async function openFile(file) {
  $("problem").textContent = "";
  try {
    const image = await readImage(file);
    const { label } = await scoreClasses(image);
    choose({ image, label, latents: await encode(image, label) });
  } catch {
    $("problem").textContent =
      `${file.name} is not an image that this browser can read.`;
  }
}

async function readImage(file) {
  // As the commands do: center crop, antialiased bilinear filter, levels.
  const bitmap = await createImageBitmap(file, {
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
  const most = (full, of, by) => Math.max(1, Math.round((of * full) / by));
  const h = Math.min(bitmap.height, most(height, bitmap.width, width));
  const w = Math.min(bitmap.width, most(width, bitmap.height, height));
  const top = (bitmap.height - h) >> 1;
  const left = (bitmap.width - w) >> 1;
  const context = new OffscreenCanvas(w, h).getContext("2d");
  context.drawImage(bitmap, -left, -top);
  const { data } = context.getImageData(0, 0, w, h);
  const grey = [0.299, 0.587, 0.114];
  let planes = [0, 1, 2].map((c) =>
    Float32Array.from({ length: w * h }, (_, i) => data[4 * i + c]),
  );
  if (channels === 1)
    planes = [
      planes[0].map((_, i) =>
        Math.round(grey.reduce((sum, g, c) => sum + g * planes[c][i], 0)),
      ),
    ];
  planes = planes.map((plane) => resize(plane, h, w));
  const isBits = Number.isInteger(Math.log2(info.num_colors));
  const level = (v) =>
    isBits
      ? Math.floor((Math.round(v) * info.num_colors) / 256)
      : Math.round((v * (info.num_colors - 1)) / 255);
  return Uint8Array.from({ length: dims }, (_, i) =>
    level(planes[i % channels][Math.floor(i / channels)]),
  );
}

function resize(plane, h, w) {
  const [rows, columns] = [weights(h, height), weights(w, width)];
  const result = new Float32Array(height * width);
  rows.forEach((ys, row) =>
    columns.forEach((xs, column) => {
      let sum = 0;
      for (const [y, wy] of ys)
        for (const [x, wx] of xs) sum += wy * wx * plane[y * w + x];
      result[row * width + column] = sum;
    }),
  );
  return result;
}

function weights(from, to) {
  // Pairs of index and weight, for each index of the result.
  const scale = from / to;
  const reach = Math.max(scale, 1);
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale;
    const pairs = [];
    for (
      let j = Math.max(0, Math.floor(center - reach));
      j < Math.min(from, Math.ceil(center + reach));
      j++
    ) {
      const weight = 1 - Math.abs(j + 0.5 - center) / reach;
      if (weight > 0) pairs.push([j, weight]);
    }
    const sum = pairs.reduce((total, [, weight]) => total + weight, 0);
    return pairs.map(([j, weight]) => [j, weight / sum]);
  });
}

// See the flow

const flow = live(async () => {
  const result = await decode(a.latents, [a.label]);
  steps = result.steps.data;
  $("step").max = steps.length / dims - 1;
  showStep();
});

function showStep() {
  const step = Number($("step").value);
  paint($("state"), part(steps, step));
  $("step-value").textContent = `After ${step} of ${$("step").max} couplings`;
}

// The page

document.title = info.title;
// It may break after an underscore.
$("title").textContent = info.title.replaceAll("_", "_\u200b");
const megabytes = (4e-6 * info.num_parameters).toFixed(1);
const millions = (1e-6 * info.num_parameters).toFixed(1);
$("about").textContent = `a model of ${millions} million parameters`;
$("size").textContent = `${width}×${height}`;
$("class").append(
  new Option("any", -1),
  ...names.map((n, k) => new Option(n, k)),
);
$("temperature").value = info.temperature;
showTemperature();
if (!names.length)
  document.querySelectorAll(".classes").forEach((part) => (part.hidden = true));
makeTurned();

// What was drawn when the page was written, until the model is there.
const samples = await (await fetch("samples.bin")).arrayBuffer();
const count = info.labels.length;
const latents = new Float32Array(samples, 0, count * dims);
const images = new Uint8Array(samples, latents.byteLength);
drawn = info.labels.map((label, i) => ({
  label,
  latents: part(latents, i),
  image: part(images, i),
}));
wanted = drawn.map(({ label, latents }) => ({
  label,
  noise: latents.map((z) => z / info.temperature),
}));
[a, b] = drawn;
makeGrid();
showEnds();
paint($("scored"), a.image);
$("status").textContent =
  `Loading the model (${megabytes} MB) and the runtime.`;

$("draw").addEventListener("click", draw);
$("class").addEventListener("change", draw);
$("temperature").addEventListener("input", () => {
  showTemperature();
  decodeSamples();
});
$("place").addEventListener("input", move);
$("kind").addEventListener("change", move);
$("step").addEventListener("input", showStep);
$("file").addEventListener("change", (event) => {
  if (event.target.files.length) openFile(event.target.files[0]);
  event.target.value = "";
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) openFile(event.clipboardData.files[0]);
});
for (const type of ["dragover", "dragleave", "drop"])
  document.addEventListener(type, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", type === "dragover");
    const files = event.dataTransfer?.files;
    if (type === "drop" && files?.length && sessions) openFile(files[0]);
  });

try {
  if (typeof WebAssembly === "undefined")
    throw new Error("this browser has no WebAssembly");
  await load();
  $("controls").disabled = false;
  $("status").textContent = "Ready.";
  setA(a);
} catch (error) {
  fail(error);
}
