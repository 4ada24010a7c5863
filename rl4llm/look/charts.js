// Helpers that every view uses, and line charts as SVG.
"use strict";

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function empty(text) {
  return el("p", { class: "empty" }, text);
}

// A number in at most three digits, with a true minus sign.
function format(x, sign = false) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  const size = Math.abs(x);
  let text = size === 0 ? "0" : size >= 1000 ? Math.round(size).toLocaleString("en") : String(+size.toPrecision(3));
  if (size && size < 1e-3) text = size.toExponential(1);
  return (x < 0 ? "−" : sign && x > 0 ? "+" : "") + text;
}

// The same at the end of an axis: what is next to nothing on it is zero.
function formatWithin(x, range) {
  return format(Math.abs(x) < range / 1000 ? 0 : x);
}

const TOGETHER = [
  ["Accuracy", ["train/accuracy", "val/sampled_accuracy", "val/greedy_accuracy"]],
  ["Response length", ["train/response_length", "val/response_length"]],
  ["Entropy", ["policy/entropy"]],
  ["What the critics explain", ["critics/explained_variance"]],
];

function curveView() {
  const names = Object.keys(run.curves);
  if (!names.length) return [empty("This run has logged no metrics yet.")];
  const pick = (list) => Object.fromEntries(list.filter((name) => run.curves[name]).map((name) => [name, run.curves[name]]));
  const first = TOGETHER.map(([title, list]) => [title, pick(list)]).filter(([, series]) => Object.keys(series).length);
  const all = names.map((name) => ({ name, node: chart(name, { [name]: run.curves[name] }) }));
  const filter = el("input", { type: "search", placeholder: "filter metrics", "aria-label": "Filter metrics" });
  filter.addEventListener("input", () => {
    for (const { name, node } of all) node.hidden = !name.includes(filter.value.trim());
  });
  return [
    el("div", { class: "charts large" }, ...first.map(([title, series]) => chart(title, series))),
    el("div", { class: "bar" }, el("h2", {}, `All ${names.length} metrics`), filter),
    el("div", { class: "charts" }, ...all.map(({ node }) => node)),
  ];
}

// One chart of one or more series, each [steps, numbers]; hovering or the arrow keys read numbers off.
function chart(title, series) {
  const drawn = Object.entries(series).filter(([, [steps]]) => steps.length);
  const [steps, numbers] = [0, 1].map((axis) => drawn.flatMap(([, points]) => points[axis]));
  const [left, right] = [Math.min(...steps), Math.max(...steps)];
  let [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  if (low === high) [low, high] = [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  const x = (step) => (right > left ? (100 * (step - left)) / (right - left) : 50);
  const y = (number) => 96 - (92 * (number - low)) / (high - low);
  const lines = drawn.map(([name, [at, values]], index) => {
    const points = at.map((step, i) => `${x(step).toFixed(2)},${y(values[i]).toFixed(2)}`);
    if (points.length === 1) points.push(points[0]);
    return svg("polyline", { class: `line s${index}`, points: points.join(" ") }, svg("title", {}, name));
  });
  const cursor = svg("line", { class: "cursor", y1: 0, y2: 100, x1: -9, x2: -9 });
  const grid = [4, 50, 96].map((at) => svg("line", { class: "grid", x1: 0, x2: 100, y1: at, y2: at }));
  const plot = svg(
    "svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", tabindex: 0, role: "img" }, ...grid, ...lines, cursor,
  );
  plot.setAttribute("aria-label", `${title}, from ${format(numbers[0])} to ${format(numbers.at(-1))}`);
  const read = el("p", { class: "read" });
  const card = el(
    "figure", { class: "chart" },
    el("figcaption", {}, title), read,
    el("div", { class: "plot" }, el("span", { class: "high" }, formatWithin(high, high - low)), el("span", { class: "low" }, formatWithin(low, high - low)), plot),
    el("div", { class: "axis" }, el("span", {}, format(left)), el("span", {}, format(right))),
  );
  readOff(plot, cursor, read, drawn, x, [left, right]);
  return card;
}

// Show the numbers of a chart at the pointer, or at the end of the curves where there is none.
function readOff(plot, cursor, read, drawn, x, [left, right]) {
  const show = (step) => {
    const at = step ?? right;
    const entries = drawn.map(([name, [steps, numbers]], index) => {
      let nearest = 0;
      steps.forEach((one, i) => { if (Math.abs(one - at) < Math.abs(steps[nearest] - at)) nearest = i; });
      return el("span", { class: `key s${index}` }, drawn.length > 1 ? `${name} ` : "", el("b", {}, format(numbers[nearest])));
    });
    read.replaceChildren(...entries, el("span", { class: "at" }, step === null ? "last" : `step ${Math.round(at)}`));
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, step === null ? -9 : x(at));
  };
  let place = right;
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    show(left + ((right - left) * (event.clientX - box.left)) / box.width);
  });
  plot.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    place = Math.min(right, Math.max(left, place + move * Math.max(1, Math.round((right - left) / 40))));
    show(place);
  });
  for (const leave of ["pointerleave", "blur"]) plot.addEventListener(leave, () => show(null));
  show(null);
}
