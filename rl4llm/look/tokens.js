// The token view: prompts of a rollout batch, their responses, every token coloured; two batches side by side.

const view = { channel: null, sort: "spread", descending: true, panes: [], batches: [] };
const NUMBERS = [
  ["advantages", "advantage", true], ["values", "value"], ["spread", "spread of critics"],
  ["return_spread", "spread of the return"], ["returns", "return"], ["rewards", "reward"], ["entropies", "entropy"],
  ["ratio", "ratio, after / before"], ["log_probs", "log-prob"], ["rollout_log_probs", "log-prob, engine"],
  ["ref_log_probs", "log-prob, reference"],
];

function tokenView() {
  if (!run.batches.length) {
    return [empty("This run has kept no rows. Runs keep those of the first and the last rollout batch where pyarrow is "
      + "installed (pip install 'rl4llm[data]'); --rows.every_n_batches=20 keeps more.")];
  }
  view.batches = run.batches.map((raw) => new Batch(raw));
  const channels = CHANNELS.filter(({ key }) => view.batches.some((batch) => batch.column(key)));
  view.channel = channels[0];
  if (!view.batches.some((batch) => batch.column("spread"))) view.sort = "score";
  const body = el("div", { class: "panes" });
  const compare = el("button", { type: "button", class: "quiet", id: "compare", "aria-pressed": false }, "Compare two batches");
  compare.addEventListener("click", () => {
    setPanes(body, view.panes.length === 1 ? 2 : 1);
    compare.setAttribute("aria-pressed", view.panes.length === 2);
  });
  if (view.batches.length < 2) compare.hidden = true;
  setPanes(body, 1);
  const legend = el("div", { class: "legend", id: "legend" });
  document.addEventListener("keydown", (event) => {
    const chosen = channels[Number(event.key) - 1];
    if (chosen && !event.target.closest("input, select") && !event.ctrlKey && !event.metaKey && !event.altKey) colour(chosen, legend);
    if (event.key === "Escape") hideTip();
  });
  document.addEventListener("scroll", hideTip, { capture: true, passive: true });
  const bar = el("div", { class: "bar tools" }, channelBar(channels, legend), compare, legend);
  colour(channels[0], legend);
  return [bar, body, el("p", { class: "note keys" },
    "Keys: 1–5 colour, ↑ ↓ prompts or responses, ← → tokens, Home and End, Escape hides the numbers.")];
}

function channelBar(channels, legend) {
  const inputs = channels.map((channel, index) => {
    const input = el("input", { type: "radio", name: "channel", value: channel.key });
    input.addEventListener("change", () => colour(channel, legend));
    channel.input = input;
    return el("label", {}, input, el("span", {}, channel.label, el("kbd", { "aria-hidden": true }, index + 1)));
  });
  return el("fieldset", { class: "channels" }, el("legend", {}, "Colour by"), ...inputs);
}

function colour(channel, legend) {
  view.channel = channel;
  channel.input.checked = true;
  const { low, high, diverging } = scaleOf(channel, view.batches);
  const middle = diverging ? [el("span", {}, format(channel.centre))] : [];
  const flags = Object.keys(view.batches[0].raw.flags).filter((name) => name.startsWith("filter_"));
  const sample = (kind, text) => el("span", { class: "mark" }, el("span", { class: `token ${kind}` }, "abc"), text);
  legend.replaceChildren(
    el("div", { class: `ramp ${diverging ? "both" : "one"}` }, el("span", {}, format(low)), ...middle, el("span", {}, format(high))),
    ...(diverging ? [sample("pos s1", "above"), sample("neg s1", "below")] : []),
    sample("gated", "gated: no policy gradient"),
    ...flags.map((name) => sample("filtered", `filtered: no ${name.slice(7)} term`)),
    ...(view.batches.some((batch) => batch.column("values")) ? [el("span", {}, STRIP)] : []),
  );
  for (const pane of view.panes) pane.paint();
}

function setPanes(body, count) {
  const last = view.panes.at(-1)?.batch ?? view.batches.at(-1);
  const first = view.batches[0] === last ? view.batches.at(-1) : view.batches[0];
  const chosen = count === 1 ? [last] : [first, last].sort((a, b) => a.step - b.step);
  view.panes = chosen.map((batch) => new Pane(batch));
  body.classList.toggle("two", count === 2);
  body.replaceChildren(...view.panes.map((pane) => pane.node));
}

class Pane {
  constructor(batch) {
    this.query = "";
    this.list = el("div", { class: "prompts", role: "listbox", "aria-label": "Prompts" });
    this.heads = el("div", { class: "heads" });
    this.detail = el("div", { class: "detail" });
    this.facts = el("p", { class: "facts" });
    this.select = el("select", { "aria-label": "Rollout batch" },
      ...view.batches.map((one, index) => el("option", { value: index }, `rollout batch ${one.step.toLocaleString("en")}`)));
    this.select.addEventListener("change", () => this.show(view.batches[this.select.value]));
    const search = el("input", { type: "search", placeholder: "find a prompt", "aria-label": "Find a prompt" });
    search.addEventListener("input", () => { this.query = search.value.toLowerCase(); this.drawList(); });
    const side = el("div", { class: "side" }, el("div", { class: "pick" }, this.select, search), this.facts, this.heads, this.list);
    this.node = el("div", { class: "pane" }, side, this.detail);
    this.list.addEventListener("keydown", (event) => this.moveInList(event));
    setUpTokens(this);
    this.show(batch);
  }

  show(batch) {
    const uid = this.prompt?.uid;
    this.batch = batch;
    this.select.value = view.batches.indexOf(batch);
    const [shown, all] = [batch.raw.lengths.length, batch.raw.responses];
    const score = format(meanOf(batch.prompts(), "score"));
    const gated = 100 * batch.shareWithout("gate");
    this.facts.textContent = `${shown < all ? `${shown} of ${all}` : all} responses, mean score ${score}`
      + (gated > 0 ? `, ${gated.toFixed(0)} % of tokens gated` : "");
    this.prompt = batch.prompts().find((prompt) => prompt.uid === uid && uid >= 0) ?? this.sorted()[0];
    this.drawList();
    this.open(this.prompt, false);
  }

  sorted() {
    const found = this.batch.prompts().filter((prompt) => prompt.text.toLowerCase().includes(this.query));
    return sorted(found, view.sort, view.descending);
  }

  drawList() {
    const keys = [["place", "prompt"], ["score", "score"], ["spread", "spread"], ["length", "length"]];
    this.heads.replaceChildren(...keys.map(([key, label]) => {
      const order = view.sort !== key ? "none" : view.descending ? "descending" : "ascending";
      const head = el("button", { type: "button", class: "head", "data-sort": key, "data-order": order,
        "aria-label": `Sort by ${label}${order === "none" ? "" : `, now ${order}`}` }, label);
      head.addEventListener("click", () => sortBy(key, this));
      return head;
    }));
    this.list.replaceChildren(...this.sorted().map((prompt) => this.option(prompt)));
    this.mark();
  }

  option(prompt) {
    const dots = prompt.responses.slice(0, 16).map(({ row }) => el("i", { class: this.outcome(row) }));
    const option = el("div", { class: "prompt", role: "option", tabindex: -1 },
      el("span", { class: "text" }, visible(prompt.text).replaceAll("\n", " ")),
      el("span", { class: "number" }, format(prompt.score)),
      el("span", { class: "number" }, format(prompt.spread)),
      el("span", { class: "number" }, format(prompt.length)),
      el("span", { class: "dots", "aria-hidden": true }, ...dots));
    option.prompt = prompt;
    option.addEventListener("click", () => this.open(prompt, true));
    return option;
  }

  outcome(row) {
    return this.batch.rows.score[row] === null ? "unscored" : this.batch.rows.correct[row] ? "correct" : "wrong";
  }

  moveInList(event) {
    const options = [...this.list.children];
    const at = options.indexOf(event.target.closest(".prompt"));
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: options.length - 1 }[event.key];
    if (next === undefined || !options[next]) return;
    event.preventDefault();
    options[next].focus();
    this.open(options[next].prompt, true);
  }

  // Open a prompt; where the other pane's batch has the same prompt, it follows.
  open(prompt, leads) {
    this.prompt = prompt;
    this.mark();
    if (!prompt) return this.detail.replaceChildren(empty("This batch has no responses."));
    const answer = prompt.answer === null ? [] : [el("p", { class: "answer" }, "expected ", el("code", {}, visible(prompt.answer)))];
    const responses = sorted(prompt.responses, view.sort, view.descending);
    this.detail.replaceChildren(
      el("div", { class: "question" }, el("pre", {}, visible(prompt.text)), ...answer),
      ...responses.map(({ row }, index) => responseCard(this, row, index)),
    );
    this.detail.classList.toggle("long", this.detail.querySelectorAll(".token").length > 4000);
    this.paint();
    for (const other of leads ? view.panes.filter((pane) => pane !== this) : []) {
      const same = other.batch.prompts().find(({ uid }) => uid === prompt.uid && uid >= 0);
      if (same) other.open(same, false);
    }
    return undefined;
  }

  mark() {
    const options = [...this.list.children];
    for (const option of options) {
      option.setAttribute("aria-selected", option.prompt === this.prompt);
      option.tabIndex = option.prompt === this.prompt ? 0 : -1;
    }
    if (options.length && !options.some((option) => option.tabIndex === 0)) options[0].tabIndex = 0;
  }

  // Colour the tokens that are shown; nothing is drawn anew.
  paint() {
    const column = this.batch.column(view.channel.key);
    const scale = scaleOf(view.channel, view.batches);
    for (const token of this.detail.querySelectorAll(".tokens .token")) {
      const x = column ? column[token.dataset.at] : NaN;
      const known = !Number.isNaN(x);
      token.style.setProperty("--s", known ? scale.strength(x).toFixed(3) : 0);
      const sign = scale.sign(x);
      const kind = !known ? "blank" : !scale.diverging ? "seq" : sign > 0 ? "pos" : sign < 0 ? "neg" : "";
      token.className = `token ${kind} ${token.dataset.marks}`;
    }
  }
}

function sortBy(key, pane) {
  view.descending = view.sort === key ? !view.descending : key !== "place";
  view.sort = key;
  for (const one of view.panes) {
    one.drawList();
    one.open(one.prompt, false);
  }
  pane.heads.querySelector(`[data-sort=${key}]`).focus();
}
