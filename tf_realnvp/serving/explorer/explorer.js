// The page that `tf-realnvp explore` writes. All arrays are flat, in the order
// [n, H, W, C] of the ONNX functions.

const ROLES = ["A", "B", "C", "D"];
const CHUNK = 4; // Images that are decoded at once, and so appear at once.
const ANSWERS = 6; // To what is rubbed out.
const MAGMA = [
  [0, 0, 4],
  [81, 18, 124],
  [183, 55, 121],
  [252, 137, 97],
  [252, 253, 191],
];

const $ = (id) => document.getElementById(id);
const clamp = (v, low, high) => Math.min(Math.max(v, low), high);

const info = await (await fetch("model.json")).json();
const [height, width, channels] = info.image_shape;
// Of the classes, if there are any.
const names =
  info.class_names ?? (info.class_probs ?? []).map((_, k) => `${k}`);
const probs = info.class_probs ?? [1];
const dims = height * width * channels;
const observesMasks = info.observe === "mask"; // Else there is no context.
let drawn; // The images of the grid: {label, latents, image}.
let wanted; // What the grid will show: {label, noise}.
let chosen; // A to D: {label, latents, image}.
let shown; // What is scored: A, or what becomes A.
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
  // In a worker, so that the page stays responsive.
  runtime.env.wasm.proxy = true;
  const weights = await (await fetch("weights.bin")).arrayBuffer();
  const externalData = [{ path: "weights.bin", data: new Uint8Array(weights) }];
  const session = (name) =>
    runtime.InferenceSession.create(`${name}.onnx`, { externalData });
  sessions = { flow: await session("flow"), score: await session("score") };
}

async function run(name, inputs, labels) {
  // One call after the other, as the runtime requires. It takes the values
  // away, so it gets copies.
  const n = labels.length;
  const feeds = {};
  if (observesMasks) inputs = { context: seen(n), ...inputs };
  for (const [key, [type, values, shape]] of Object.entries(inputs))
    feeds[key] = new runtime.Tensor(type, values.slice(), [n, ...shape]);
  if (names.length)
    feeds.label = new runtime.Tensor("int32", Int32Array.from(labels), [n]);
  last = last.catch(() => {}).then(() => sessions[name].run(feeds));
  return last;
}

// The context of n images: the pixels of one that are visible, or none.
function seen(n, image, isVisible) {
  const depth = channels + 1;
  const context = new Float32Array(height * width * depth);
  isVisible?.forEach((value, i) => {
    if (value) context.set([...part(image, i, channels), 1], i * depth);
  });
  return ["float32", repeat(context, n), info.context_shape];
}

// Returns the images before and after each coupling, of each latents.
async function stepsOf(latents, labels, context = {}) {
  const inputs = { latents: ["float32", latents, info.latent_shape] };
  const result = await run("flow", { ...inputs, ...context }, labels);
  const { data } = result.steps;
  return labels.map((_, i) => part(data, i, data.length / labels.length));
}

async function decode(latents, labels, context) {
  const steps = await stepsOf(latents, labels, context);
  return steps.map((states) => states.slice(-dims));
}

function scoreEach(images, noise, labels) {
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
  // Each component in the middle of its level.
  const noise = new Float32Array(dims).fill(0.5);
  return (await scoreEach(image, noise, [label])).latents.data;
}

async function scoreClasses(image) {
  // Scores an image given each class, all with the same noise.
  const labels = allLabels();
  const noise = Float32Array.from({ length: dims }, uniforms(0));
  const n = labels.length;
  const result = await scoreEach(repeat(image, n), repeat(noise, n), labels);
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

function paintColors(canvas, color, alpha = () => 255) {
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = color(i, c);
    pixels.data[4 * i + 3] = alpha(i);
  }
  context.putImageData(pixels, 0, 0);
}

function paint(canvas, image, alpha) {
  const zoom = 255 / (info.num_colors - 1);
  const color = (i, c) => zoom * image[channels * i + (c % channels)];
  paintColors(canvas, color, alpha);
}

function paintMap(canvas, map) {
  const low = map.reduce((a, b) => Math.min(a, b));
  const high = map.reduce((a, b) => Math.max(a, b));
  paintColors(canvas, (i, c) => {
    const place = ((map[i] - low) / (high - low || 1)) * (MAGMA.length - 1);
    const first = Math.min(Math.floor(place), MAGMA.length - 2);
    const [from, to] = [MAGMA[first][c], MAGMA[first + 1][c]];
    return from + (place - first) * (to - from);
  });
  return [low, high];
}

function smooth(map) {
  // As `bit_maps.smooth` does inside of the border; of larger images also on
  // coarser grids, since the masks of each scale leave a pattern.
  const widest = Math.max(1, Math.min(height, width) / 16);
  for (let gap = 1; gap <= widest; gap *= 2) {
    const old = map;
    map = old.map((_, i) => {
      // A border has the values of the pixels next to it.
      const row = clamp(Math.floor(i / width), gap, height - 1 - gap);
      const column = clamp(i % width, gap, width - 1 - gap);
      let sum = 0;
      // The middle counts twice.
      for (const r of [-gap, 0, 0, gap])
        for (const c of [-gap, 0, 0, gap])
          sum += old[(row + r) * width + column + c];
      return sum / 16;
    });
  }
  return map;
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
    const role = ROLES[chosen.indexOf(sample)];
    if (role) button.dataset.role = role;
    else delete button.dataset.role;
    button.setAttribute("aria-pressed", Boolean(role));
  });
}

const decodeSamples = live(async (isStale) => {
  const temperature = Number($("temperature").value);
  for (let i = 0; i < wanted.length && !isStale(); i += CHUNK) {
    const chunk = wanted.slice(i, i + CHUNK);
    const all = chunk.flatMap(({ noise }) => [...noise]);
    const latents = Float32Array.from(all, (z) => temperature * z);
    const labels = chunk.map(({ label }) => label);
    const images = await decode(latents, labels);
    labels.forEach((label, k) => {
      const image = images[k];
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

// A to D

function choose(image) {
  chosen = [image, ...chosen.filter((other) => other !== image)].slice(0, 4);
  useA();
}

function useA() {
  showRoles();
  showCorners();
  if (shown !== chosen[0]) show(chosen[0]);
  move();
  flow();
  showTorn();
  if (names.length) turn();
}

function showCorners() {
  chosen.forEach(({ image, label }, i) => {
    const canvas = $(ROLES[i].toLowerCase());
    paint(canvas, image);
    canvas.setAttribute("aria-label", `${ROLES[i]} ${names[label] ?? ""}`);
  });
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
  const angle = Math.acos(clamp(cosine, -1, 1));
  if (Math.sin(angle) > 1e-6)
    [u, v] = [u, v].map((w) => Math.sin(w * angle) / Math.sin(angle));
  return start.map((value, i) => u * value + v * end[i]);
}

let corners = {}; // The latents of A to D, all as images of the class of A.

const move = live(async () => {
  const { label, latents } = chosen[0];
  if (corners.images !== chosen) {
    const images = chosen;
    const all = images.map((one) =>
      one.label === label ? one.latents : encode(one.image, label),
    );
    corners = { images, latents: await Promise.all(all) };
  }
  const [x, y] = [Number($("place").value), Number($("down").value)];
  const [a, b, c, d] = corners.latents;
  const depth = info.latent_shape[2];
  const kind = $("kind").value;
  const moved = slerp(slerp(a, b, x), slerp(c, d, x), y).map((value, i) => {
    const isFine = i % depth >= depth / 2;
    const isMoved = kind === "all" || (kind === "fine") === isFine;
    return isMoved ? value : latents[i];
  });
  const [image] = await decode(moved, [label]);
  paint($("moved"), image);
  $("place-value").textContent = `${Math.round(100 * x)} %`;
  $("down-value").textContent = `${Math.round(100 * y)} %`;
  $("point").style.left = `${100 * x}%`;
  $("point").style.top = `${100 * y}%`;
});

function dragPoint(event) {
  [$("place").value, $("down").value] = placeIn($("pad"), event);
  move();
}

// Calls a function with each event of a drag by mouse, pen or finger.
function onDrag(element, drag, drop = () => {}) {
  element.addEventListener("pointerdown", (event) => {
    if (event.button || !event.isPrimary || $("controls").disabled) return;
    element.setPointerCapture(event.pointerId);
    drag(event);
  });
  element.addEventListener("pointermove", (event) => {
    if (element.hasPointerCapture(event.pointerId)) drag(event);
  });
  element.addEventListener("lostpointercapture", drop);
}

function placeIn(element, event) {
  const box = element.getBoundingClientRect();
  return [
    (event.clientX - box.left) / box.width,
    (event.clientY - box.top) / box.height,
  ];
}

// Turn into

const turn = live(async () => {
  const latents = repeat(chosen[0].latents, names.length);
  const images = await decode(latents, allLabels());
  names.forEach((_, k) =>
    paint($("turned").children[k].firstChild, images[k]),
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

function show(image) {
  shown = image;
  paint($("scored"), shown.image);
  score();
}

const score = live(async () => {
  const scored = shown;
  const { image } = scored;
  const result = await scoreClasses(image);
  const latents = await encode(image, result.label);
  const [decoded] = await decode(latents, [result.label]);
  const changed = image.filter((v, i) => v !== decoded[i]).length;
  paint($("recovered"), decoded);
  $("exact").textContent = changed
    ? `${changed} of ${dims} differ`
    : "the same";
  const range = paintMap($("map"), smooth(result.map));
  $("map-range").textContent = range.map((v) => v.toFixed(1)).join(" to ");
  $("bits").textContent = `${result.bits.toFixed(3)} bits/dim`;
  showHistogram(result.bits);
  if (names.length) showLikeliest(result.posterior);
  if (scored !== shown || painted || scored === chosen[0]) return;
  Object.assign(scored, { label: result.label, latents });
  if (!scored.isEdit) return choose(scored);
  chosen = [scored, ...chosen.slice(1)];
  useA();
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
  const n = all.length;
  const below = all.filter((v) => v < bits).length;
  const [side, number] = 2 * below < n ? ["fewer", n - below] : ["more", below];
  $("rank").textContent = `${side} than ${number} of ${n} test images`;
  $("unusual").textContent =
    `Of ${n} test images ${2 * number - n} have more usual bits/dim than A.`;
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
  if ($("controls").disabled) return;
  $("problem").textContent = "";
  try {
    show({ image: await readImage(file) });
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
  const data = pixelsOf(bitmap, left, top, w, h);
  const grey = [9798, 19235, 3735]; // Of 32,768, as libpng has them.
  if (channels === 1)
    for (let i = 0; i < data.length; i += 4)
      data[i] = grey.reduce((sum, g, c) => sum + g * data[i + c], 0) >> 15;
  const planes = Array.from({ length: channels }, (_, c) =>
    resize((i) => data[4 * i + c], h, w),
  );
  return Uint8Array.from({ length: dims }, (_, i) =>
    level(planes[i % channels][Math.floor(i / channels)]),
  );
}

function pixelsOf(bitmap, left, top, w, h) {
  // By WebGL: a 2D canvas has no color where an image is transparent.
  const gl = new OffscreenCanvas(1, 1).getContext("webgl");
  const size = Math.max(bitmap.width, bitmap.height);
  if (!gl || size > gl.getParameter(gl.MAX_TEXTURE_SIZE)) {
    const context = new OffscreenCanvas(w, h).getContext("2d");
    context.drawImage(bitmap, -left, -top);
    return context.getImageData(0, 0, w, h).data;
  }
  const [target, texture] = [gl.TEXTURE_2D, gl.createTexture()];
  gl.bindTexture(target, texture);
  gl.texImage2D(target, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  const place = gl.COLOR_ATTACHMENT0;
  gl.framebufferTexture2D(gl.FRAMEBUFFER, place, target, texture, 0);
  const data = new Uint8Array(4 * w * h);
  gl.readPixels(left, top, w, h, gl.RGBA, gl.UNSIGNED_BYTE, data);
  return data;
}

function level(v) {
  const isBits = Number.isInteger(Math.log2(info.num_colors));
  return isBits
    ? Math.floor((Math.round(v) * info.num_colors) / 256)
    : Math.round((v * (info.num_colors - 1)) / 255);
}

function resize(value, h, w) {
  const [rows, columns] = [weights(h, height), weights(w, width)];
  const result = new Float32Array(height * width);
  rows.forEach((ys, row) =>
    columns.forEach((xs, column) => {
      let sum = 0;
      for (const [y, wy] of ys)
        for (const [x, wx] of xs) sum += wy * wx * value(y * w + x);
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

// Draw

// Where the pen and the brush are, in pixels of the image.
const places = { pen: [width / 2, height / 2], brush: [width / 2, height / 2] };
let painted = null; // By the stroke that is being drawn: {under, coverage}.

function stroke(from, to) {
  painted ??= {
    under: shown.image,
    coverage: new Float32Array(width * height),
  };
  const { under, coverage } = painted;
  covered(from, to, $("size-of-pen").value).forEach((value, i) => {
    coverage[i] = Math.max(coverage[i], value);
  });
  const color = $("color")
    .value.match(/\w\w/g)
    .map((hex) => parseInt(hex, 16));
  const ink = (channels === 1 ? [$("grey").value] : color).map(level);
  const image = under.map((v, i) =>
    Math.round(
      v + coverage[Math.floor(i / channels)] * (ink[i % channels] - v),
    ),
  );
  show({ image, isEdit: shown === chosen[0] || shown.isEdit });
}

// How much of each pixel a line covers.
function covered(from, to, size) {
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
  const square = dx * dx + dy * dy || 1;
  return Float32Array.from({ length: width * height }, (_, i) => {
    // Of the middle of the pixel from the line.
    const x = (i % width) + 0.5 - from[0];
    const y = Math.floor(i / width) + 0.5 - from[1];
    const t = clamp((x * dx + y * dy) / square, 0, 1);
    const distance = Math.hypot(x - t * dx, y - t * dy);
    return clamp(size / 2 + 0.5 - distance, 0, 1);
  });
}

function lift() {
  painted = null;
  score(); // And take over the image.
}

function moveTo(name, at = places[name]) {
  places[name] = at;
  const { style } = $(name);
  style.left = `${(100 * at[0]) / width}%`;
  style.top = `${(100 * at[1]) / height}%`;
  style.width = `${(100 * $(`size-of-${name}`).value) / width}%`;
}

function penAt(event) {
  const [x, y] = placeIn(event.currentTarget, event);
  return [x * width, y * height];
}

// Moves the pen or the brush, and calls functions with each line that it draws,
// by a drag or by keys, and at the end of each stroke.
function onLines(element, name, draw, lift = () => {}) {
  const drawTo = (to, from = places[name]) => {
    moveTo(name, to);
    draw(from, to);
  };
  onDrag(
    element,
    (event) => {
      const at = penAt(event);
      drawTo(at, event.type === "pointerdown" ? at : undefined);
    },
    lift,
  );
  element.addEventListener("pointermove", (event) => {
    if (!element.hasPointerCapture(event.pointerId))
      moveTo(name, penAt(event));
  });
  element.addEventListener("keydown", (event) => {
    const move = {
      ArrowLeft: [-1, 0],
      ArrowRight: [1, 0],
      ArrowUp: [0, -1],
      ArrowDown: [0, 1],
      " ": [0, 0],
    }[event.key];
    if (!move || $("controls").disabled) return;
    event.preventDefault();
    const to = [
      clamp(places[name][0] + move[0], 0, width),
      clamp(places[name][1] + move[1], 0, height),
    ];
    if (event.key !== " " && !event.shiftKey) return moveTo(name, to);
    drawTo(to);
    lift();
  });
}

// Restore

const isVisible = new Uint8Array(width * height); // The pixels of A.
let answerNoise = normals(ANSWERS * dims);

const answer = live(async () => {
  const { image, label } = chosen[0];
  const isKnown = isVisible.slice();
  const context = { context: seen(ANSWERS, image, isKnown) };
  const labels = Array(ANSWERS).fill(label);
  const images = await decode(answerNoise, labels, context);
  [...$("answers").children].forEach((canvas, k) => {
    const keep = (v, i) => (isKnown[Math.floor(i / channels)] ? image[i] : v);
    paint(canvas, images[k].map(keep));
  });
});

function showTorn() {
  if (!observesMasks) return;
  paint($("torn"), chosen[0].image, (i) => 255 * isVisible[i]);
  if (sessions) answer();
}

function keepRows(count) {
  isVisible.fill(1).fill(0, count * width);
  showTorn();
}

function rub(from, to) {
  covered(from, to, $("size-of-brush").value).forEach((value, i) => {
    if (value >= 0.5) isVisible[i] = 0;
  });
  showTorn();
}

function makeAnswers() {
  $("restore").parentNode.hidden = !observesMasks;
  $("size-of-brush").max = Math.ceil(width / 2);
  $("size-of-brush").value = Math.ceil(width / 5);
  moveTo("brush");
  for (let k = 1; k <= ANSWERS; k++) {
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Answer ${k}`);
    $("answers").append(canvas);
  }
  keepRows(height / 2);
}

// See the flow

const flow = live(async () => {
  const { latents, label } = chosen[0];
  [steps] = await stepsOf(latents, [label]);
  $("step").max = steps.length / dims - 1;
  $("play").disabled = $("step").disabled = false;
  showStep();
});

function showStep() {
  const step = Number($("step").value);
  paint($("state"), part(steps, step));
  $("step-value").textContent = `After ${step} of ${$("step").max} couplings`;
}

let timer; // Of the animation.

function play() {
  const step = $("step");
  clearInterval(timer);
  step.value = 0;
  timer = setInterval(() => {
    showStep();
    if (step.value === step.max) clearInterval(timer);
    else step.stepUp();
  }, 120);
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
$("grey").parentNode.hidden = channels !== 1;
$("color").parentNode.hidden = channels === 1;
moveTo("pen");

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
chosen = drawn.slice(0, 4);
makeGrid();
showCorners();
paint($("scored"), chosen[0].image);
makeAnswers();
$("status").textContent =
  `Loading the model (${megabytes} MB) and the runtime.`;

$("draw").addEventListener("click", draw);
$("class").addEventListener("change", draw);
$("temperature").addEventListener("input", () => {
  showTemperature();
  decodeSamples();
});
for (const id of ["place", "down"]) $(id).addEventListener("input", move);
onDrag($("pad"), dragPoint);
$("kind").addEventListener("change", move);
$("play").addEventListener("click", play);
$("step").addEventListener("input", () => {
  clearInterval(timer);
  showStep();
});
$("blank").addEventListener("click", () =>
  show({ image: new Uint8Array(dims) }),
);
onLines($("scored"), "pen", stroke, lift);
onLines($("torn"), "brush", rub);
for (const name of ["pen", "brush"])
  $(`size-of-${name}`).addEventListener("input", () => moveTo(name));
$("half").addEventListener("click", () => keepRows(height / 2));
$("whole").addEventListener("click", () => keepRows(height));
$("others").addEventListener("click", () => {
  answerNoise = normals(ANSWERS * dims);
  answer();
});
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
    if (type === "drop" && files?.length) openFile(files[0]);
  });

try {
  if (typeof WebAssembly === "undefined")
    throw new Error("this browser has no WebAssembly");
  await load();
  $("controls").disabled = false;
  $("status").textContent = "Ready.";
  useA();
} catch (error) {
  fail(error);
}
