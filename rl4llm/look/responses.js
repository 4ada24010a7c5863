// A response: its numbers, its tokens, what the critics thought at each of them, and the numbers of one token.

// Text as it is shown: control characters and those that change the direction of writing become their escapes.
function visible(text) {
  return text.replace(/[^\P{C}\n]|[\u2028\u2029]/gu, (x) => `\\u${x.codePointAt(0).toString(16).padStart(4, "0")}`);
}

function tokenText(text) {
  if (text === "") return "▫"; // part of a character that a later token completes
  if (/^ +$/.test(text)) return "␣".repeat(text.length);
  return visible(text.replaceAll("\t", "⇥")).replaceAll("\n", "⏎\n");
}

function responseCard(pane, row, index) {
  const { batch } = pane;
  const { score, length, spread } = batch.response(row);
  const outcome = pane.outcome(row);
  const word = { correct: "✓ correct", wrong: "✗ wrong", unscored: "? not scored" }[outcome];
  const tags = ["truncated", "replayed"].filter((name) => batch.rows[name][row]);
  const head = el("header", {},
    el("span", { class: `outcome ${outcome}` }, word), el("span", {}, `score ${format(score)}`),
    el("span", {}, `${length} tokens`), ...(Number.isNaN(spread) ? [] : [el("span", {}, `spread ${format(spread)}`)]),
    ...tags.map((name) => el("span", { class: "tag" }, name)));
  const tokens = el("div", { class: "tokens", role: "group", "aria-label": `Response ${index + 1}, ${word}` });
  const [first, end] = [batch.offsets[row], batch.offsets[row + 1]];
  const filters = Object.keys(batch.raw.flags).filter((name) => name.startsWith("filter_"));
  for (let at = first; at < end; at++) {
    const marks = !batch.flag("trained")[at] ? ["untrained"] : [
      ...(batch.flag("gate")?.[at] === 0 ? ["gated"] : []),
      ...(filters.some((name) => batch.flag(name)[at] === 0) ? ["filtered"] : []),
    ];
    tokens.append(el("span", { class: "token", tabindex: at === first ? 0 : -1, "data-at": at, "data-marks": marks.join(" ") },
      tokenText(batch.text(at))));
  }
  if (first === end) tokens.append(empty("no tokens"));
  return el("article", { class: "response" }, head, tokens, ...strip(batch, first, end));
}

const STRIP = "curve: value ± spread, dashed: return, bars: gated";

// The value with the spread of the critics around it, the return, and ticks where tokens are gated.
function strip(batch, first, end) {
  const [values, spread, returns, gate] = [batch.column("values"), batch.column("spread"), batch.column("returns"), batch.flag("gate")];
  if (!values || end - first < 2) return [];
  const [low, high] = valueRange(batch);
  const y = (x) => (88 - (84 * (x - low)) / (high - low)).toFixed(1);
  const places = Array.from({ length: end - first }, (_, i) => i).filter((i) => !Number.isNaN(values[first + i]));
  if (!places.length) return [];
  const path = (read) => places.map((i) => `${i + 0.5},${y(read(first + i))}`).join(" ");
  const around = (at) => (spread ? spread[at] : 0);
  const band = `${path((at) => values[at] + around(at))} ${path((at) => values[at] - around(at)).split(" ").reverse().join(" ")}`;
  const ticks = places.filter((i) => gate?.[first + i] === 0).map((i) => `M${i + 0.1} 97h.8`).join("");
  const parts = [svg("polygon", { class: "band", points: band }), svg("polyline", { class: "value", points: path((at) => values[at]) })];
  if (returns) parts.push(svg("polyline", { class: "return", points: path((at) => returns[at]) }));
  parts.push(svg("path", { class: "ticks", d: ticks }), svg("line", { class: "cursor", y1: 0, y2: 100, x1: -9, x2: -9 }));
  const plot = svg("svg", { viewBox: `0 0 ${end - first} 100`, preserveAspectRatio: "none", "aria-hidden": true }, ...parts);
  const scale = el("div", { class: "scale" }, ...[high, low].map((x) => el("span", {}, formatWithin(x, high - low))));
  const style = `max-width:calc(${end - first} * 2.4rem + 3rem)`;
  return [el("div", { class: "strip", style, title: STRIP }, scale, plot)];
}

// The same range for all responses of a batch, so that strips can be compared.
function valueRange(batch) {
  if (batch.range) return batch.range;
  let [low, high] = [Infinity, -Infinity];
  const [values, spread, returns] = ["values", "spread", "returns"].map((name) => batch.column(name));
  values.forEach((value, at) => {
    const around = spread ? spread[at] : 0;
    for (const x of [value - around, value + around, returns ? returns[at] : value]) {
      if (x < low) low = x;
      if (x > high) high = x;
    }
  });
  batch.range = high > low ? [low, high] : [low - 0.5, low + 0.5];
  return batch.range;
}

// --- one token ----------------------------------------------------------------------------------------------------------

function setUpTokens(pane) {
  const { detail } = pane;
  const near = (event) => event.target.closest?.(".tokens .token");
  detail.addEventListener("pointerover", (event) => { if (near(event)) showTip(pane, near(event)); });
  detail.addEventListener("pointerout", (event) => { if (near(event) && near(event) !== document.activeElement) hideTip(); });
  detail.addEventListener("focusin", (event) => { if (near(event)) showTip(pane, near(event)); });
  detail.addEventListener("focusout", hideTip);
  detail.addEventListener("click", (event) => near(event)?.focus({ preventScroll: true }));
  detail.addEventListener("keydown", (event) => {
    const token = near(event);
    const next = token && nextToken(detail, token, event.key);
    if (!next) return;
    event.preventDefault();
    for (const one of next.parentNode.children) one.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    showTip(pane, next);
  });
}

function nextToken(detail, token, key) {
  const siblings = [...token.parentNode.children];
  const at = siblings.indexOf(token);
  const along = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: siblings.length - 1 }[key];
  if (along !== undefined) return siblings[along];
  const across = { ArrowDown: 1, ArrowUp: -1 }[key];
  if (!across) return undefined;
  const lines = [...detail.querySelectorAll(".tokens")];
  const line = lines[lines.indexOf(token.parentNode) + across];
  return line?.children[Math.min(at, line.children.length - 1)];
}

function showTip(pane, token) {
  const tip = document.getElementById("tip");
  const { batch } = pane;
  const at = Number(token.dataset.at);
  const row = batch.offsets.findLastIndex((start) => start <= at);
  const said = (label, value) => [el("dt", {}, label), el("dd", {}, value)];
  const numbers = NUMBERS.filter(([name]) => batch.column(name)).flatMap(([name, label, sign]) => [
    ...said(label, format(batch.column(name)[at], sign)), ...(name === "values" ? critics(batch, at, said) : []),
  ]);
  const states = Object.keys(batch.raw.flags).filter((name) => name !== "trained" && !batch.flag(name)[at]);
  const words = !batch.flag("trained")[at] ? ["not trained: no number belongs to it"] : states.map((name) => (
    name === "gate" ? "gated: the policy learns nothing from it" : `filtered: no ${name.slice(7)} term`));
  const place = `token ${at - batch.offsets[row] + 1} of ${batch.raw.lengths[row]}`;
  tip.replaceChildren(
    el("p", { class: "title" }, el("code", {}, JSON.stringify(batch.text(at))), ` ${place}`),
    ...words.map((text) => el("p", { class: "state" }, text)), el("dl", {}, ...numbers));
  tip.hidden = false;
  document.querySelector("[aria-describedby=tip]")?.removeAttribute("aria-describedby");
  token.setAttribute("aria-describedby", "tip");
  placeTip(tip, token.getClientRects()[0] ?? token.getBoundingClientRect());
  moveCursor(token, at - batch.offsets[row]);
}

function critics(batch, at, said) {
  const names = Object.keys(batch.raw.numbers).filter((name) => /^critic_\d+$/.test(name));
  return names.flatMap((name) => said(`· ${name.replace("_", " ")}`, format(batch.column(name)[at])));
}

function placeTip(tip, box) {
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.max(8, Math.min(box.left, document.documentElement.clientWidth - width - 8));
  const above = box.top - height - 10; // where it hides neither the token nor the curve below
  tip.style.transform = `translate(${left}px, ${above >= 8 ? above : Math.min(box.bottom + 10, innerHeight - height - 8)}px)`;
}

function moveCursor(token, place) {
  for (const line of document.querySelectorAll(".strip .cursor")) line.setAttribute("x1", -9), line.setAttribute("x2", -9);
  const line = token.closest(".response").querySelector(".strip .cursor");
  for (const end of ["x1", "x2"]) line?.setAttribute(end, place + 0.5);
}

function hideTip() {
  document.getElementById("tip").hidden = true;
}
