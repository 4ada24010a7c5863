// The frame of the page: data, header, views, theme. Everything that comes from the run is set as text, never as HTML.
const run = JSON.parse(document.getElementById("data").textContent);

function start() {
  document.title = `${run.name} · rl4llm look`;
  document.getElementById("name").textContent = run.name;
  document.getElementById("facts").replaceChildren(...facts());
  setUpTheme();
  setUpTabs({
    Tokens: tokenView,
    Curves: curveView,
    Composition: compositionView,
    Costs: costView,
  });
}

function facts() {
  const { summary } = run;
  const found = [];
  if (summary.status) found.push(el("span", { class: `status ${summary.status}` }, summary.status));
  else found.push(el("span", { class: "status" }, "no summary yet"));
  if (summary.steps !== undefined) found.push(el("span", {}, `${summary.steps} rollout batches`));
  if (summary.minutes !== undefined) found.push(el("span", {}, `${format(summary.minutes)} min of training`));
  const key = ["sampled_accuracy", "greedy_accuracy", "reward"].find((name) => summary.after?.[name] !== undefined);
  if (key) {
    const [before, after] = [summary.before?.[key], summary.after[key]].map((x) => format(x));
    found.push(el("span", {}, `held-out ${key.replaceAll("_", " ")} `, el("b", {}, `${before} → ${after}`)));
  }
  if (summary.peak_memory_mib) found.push(el("span", {}, `peak memory ${format(summary.peak_memory_mib / 1024)} GiB`));
  if (summary.seed !== undefined) found.push(el("span", {}, `seed ${summary.seed}`));
  return found;
}

function setUpTheme() {
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const shown = () => document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
  const label = () => { button.textContent = shown() === "dark" ? "☀ Light" : "☾ Dark"; };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = shown() === "dark" ? "light" : "dark";
    label();
  });
  dark.addEventListener("change", label);
  label();
}

function setUpTabs(views) {
  const bar = document.getElementById("tabs");
  const main = document.getElementById("main");
  const tabs = Object.keys(views).map((name) => {
    const id = name.toLowerCase();
    const panel = el("section", { id, role: "tabpanel", "aria-labelledby": `tab-${id}`, tabindex: "-1", hidden: "" });
    const tab = el("button", { id: `tab-${id}`, type: "button", role: "tab", "aria-controls": id }, name);
    main.append(panel);
    bar.append(tab);
    return { name, tab, panel, drawn: false };
  });
  const select = (chosen, focus) => {
    hideTip();
    for (const one of tabs) {
      one.tab.setAttribute("aria-selected", one === chosen);
      one.tab.tabIndex = one === chosen ? 0 : -1;
      one.panel.hidden = one !== chosen;
    }
    if (!chosen.drawn) chosen.panel.append(...views[chosen.name]());
    chosen.drawn = true;
    if (focus) chosen.tab.focus();
  };
  tabs.forEach((one, index) => {
    one.tab.addEventListener("click", () => select(one, false));
    one.tab.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (move) select(tabs[(index + move + tabs.length) % tabs.length], true);
    });
  });
  select(run.batches.length ? tabs[0] : tabs[1], false);
}

// --- composition and costs --------------------------------------------------------------------------------------------

function compositionView() {
  if (!run.composition.length) return [empty("This run has no config.yaml, so what it is made of is not known.")];
  const set = run.composition.filter((slot) => slot.value !== "null");
  const without = run.composition.filter((slot) => slot.value === "null").map((slot) => slot.name);
  const [parts, plain] = [set.filter((slot) => slot.settings), set.filter((slot) => !slot.settings)];
  return [
    el("div", { class: "cards" }, partCard({ name: "settings", part: "", settings: plain }), ...parts.map(partCard)),
    el("p", { class: "note" }, "Empty slots: ", without.join(", ") || "none", "."),
    el("details", { class: "config" }, el("summary", {}, "The whole configuration"), el("pre", {}, run.config)),
  ];
}

function partCard(slot) {
  return el(
    "article", { class: "card" },
    el("h3", {}, el("small", {}, slot.name), slot.part || ""),
    el("dl", { class: "settings" }, ...slot.settings.flatMap(setting)),
  );
}

function setting(one) {
  if (!one.settings) return [el("dt", {}, one.name), el("dd", { class: one.value === "null" ? "none" : "" }, one.value)];
  const inner = el("dl", { class: "settings" }, ...one.settings.flatMap(setting));
  return [el("dt", {}, one.name), el("dd", {}, one.part, one.settings.length ? inner : "")];
}

function costView() {
  if (!run.costs.length) return [empty("This run has logged no seconds and no memory yet.")];
  const seconds = run.costs.filter((cost) => cost.name.startsWith("time/"));
  const memory = run.costs.filter((cost) => cost.name.startsWith("memory/"));
  const step = run.costs.find((cost) => cost.name === "time/step_seconds");
  const order = ["rollout", "judge", "policy", "critics"].map((phase) => `time/${phase}_seconds`);
  const phases = seconds.filter((cost) => cost !== step).sort((a, b) => order.indexOf(a.name) - order.indexOf(b.name));
  const rest = step ? step.sum - phases.reduce((sum, cost) => sum + cost.sum, 0) : 0;
  const bars = phases.map((cost) => [cost.name.replace(/^time\/|_seconds$/g, ""), cost.sum]);
  if (step) bars.push(["the rest", Math.max(rest, 0)]);
  return [
    el("h2", {}, "Where the time went"),
    shareBar(bars),
    costTable(["seconds", "batches", "mean", "largest", "in all"], step ? [...phases, step] : phases),
    ...(memory.length ? [el("h2", {}, "Memory"), costTable(["memory", "batches", "mean", "largest", "in all"], memory)] : []),
    el("div", { class: "charts" }, ...seconds.map((cost) => chart(cost.name, { [cost.name]: run.curves[cost.name] }))),
  ];
}

function shareBar(bars) {
  const total = bars.reduce((sum, [, seconds]) => sum + seconds, 0) || 1;
  const pieces = bars.map(([name, seconds], index) => {
    const share = seconds / total;
    const label = `${name}: ${format(seconds)} s, ${(100 * share).toFixed(0)} %`;
    return el("div", { class: `piece p${index % 4}`, style: `flex-grow:${share}`, title: label }, label);
  });
  return el("div", { class: "share", role: "img", "aria-label": "Share of each phase" }, ...pieces);
}

function costTable(heads, costs) {
  const rows = costs.map((cost) => el(
    "tr", {}, el("th", { scope: "row" }, cost.name),
    ...[cost.count, cost.mean, cost.largest, cost.sum].map((x) => el("td", {}, format(x))),
  ));
  const head = el("tr", {}, ...heads.map((name) => el("th", { scope: "col" }, name)));
  return el("div", { class: "scroll" }, el("table", { class: "costs" }, el("thead", {}, head), el("tbody", {}, ...rows)));
}

start();
