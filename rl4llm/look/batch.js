// A kept rollout batch: packed columns, unpacked when they are first read.

function unpack(text, Kind) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < characters.length; i++) bytes[i] = characters.charCodeAt(i);
  return new Kind(bytes.buffer);
}

class Batch {
  constructor(raw) {
    Object.assign(this, { raw, step: raw.step, rows: raw.rows, kept: new Map() });
    this.offsets = [0];
    for (const length of raw.lengths) this.offsets.push(this.offsets.at(-1) + length);
  }

  read(name, packed, Kind) {
    if (!this.kept.has(name)) this.kept.set(name, packed === undefined ? null : unpack(packed, Kind));
    return this.kept.get(name);
  }

  // The numbers of a column, one per token of all responses; null where the run has none.
  column(name) { return this.read(name, this.raw.numbers[name], Float32Array); }

  flag(name) { return this.read(name, this.raw.flags[name], Uint8Array); }

  text(token) { return run.vocabulary[this.read("tokens", this.raw.tokens, Uint32Array)[token]]; }

  // The mean of a column over the trained tokens of a response.
  mean(row, name) {
    const column = this.column(name);
    let [sum, count] = [0, 0];
    for (let i = this.offsets[row]; column && i < this.offsets[row + 1]; i++) {
      if (!Number.isNaN(column[i])) { sum += column[i]; count += 1; }
    }
    return count ? sum / count : NaN;
  }

  // What a response is sorted by.
  response(row) {
    this.responses ??= new Map();
    if (!this.responses.has(row)) {
      const found = { row, score: this.rows.score[row] ?? NaN, length: this.rows.length[row], spread: this.mean(row, "spread") };
      this.responses.set(row, found);
    }
    return this.responses.get(row);
  }

  // The prompts of the batch with their responses and the means over these.
  prompts() {
    if (this.groups) return this.groups;
    const found = new Map();
    this.rows.group.forEach((group, row) => {
      if (!found.has(group)) found.set(group, []);
      found.get(group).push(this.response(row));
    });
    this.groups = [...found.values()].map((responses, place) => {
      const { row } = responses[0];
      const means = Object.fromEntries(["score", "spread", "length"].map((key) => [key, meanOf(responses, key)]));
      const [text, answer, uid] = ["prompt", "answer", "prompt_uid"].map((name) => this.rows[name][row]);
      return { place, responses, text, answer, uid, ...means };
    });
    return this.groups;
  }

  // The share of trained tokens at which a flag is false.
  shareWithout(name) {
    const [trained, flag] = [this.flag("trained"), this.flag(name)];
    if (!flag) return NaN;
    let [off, count] = [0, 0];
    for (let i = 0; i < flag.length; i++) if (trained[i]) { count += 1; off += 1 - flag[i]; }
    return count ? off / count : NaN;
  }
}

function meanOf(items, key) {
  const numbers = items.map((item) => item[key]).filter((x) => !Number.isNaN(x));
  return numbers.length ? numbers.reduce((sum, x) => sum + x, 0) / numbers.length : NaN;
}

// Numbers that are not known come last in either direction; equal numbers keep their order.
function sorted(items, key, descending) {
  if (key === "place") return [...items];
  const rank = (item) => (Number.isNaN(item[key]) ? Infinity : descending ? -item[key] : item[key]);
  return [...items].sort((a, b) => (rank(a) === rank(b) ? 0 : rank(a) - rank(b)));
}

// What tokens can be coloured by. `centre` is the number without colour; without it a scale begins at its low end.
const CHANNELS = [
  { key: "advantages", label: "Advantage", centre: 0 },
  { key: "values", label: "Value" },
  { key: "spread", label: "Spread", from: 0 },
  { key: "entropies", label: "Entropy", from: 0 },
  { key: "ratio", label: "Ratio", centre: 1, map: Math.log },
];

// The scale of a channel, the same in all batches: what 98 % of its numbers reach.
function scaleOf(channel, batches) {
  if (channel.scale) return channel.scale;
  const map = channel.map ?? ((x) => x);
  const numbers = [];
  for (const batch of batches) {
    const column = batch.column(channel.key) ?? [];
    const stride = Math.ceil(column.length / 20000);
    for (let i = 0; i < column.length; i += stride) if (Number.isFinite(map(column[i]))) numbers.push(map(column[i]));
  }
  numbers.sort((a, b) => a - b);
  const quantile = (q) => numbers[Math.round(q * (numbers.length - 1))] ?? 0;
  let [low, high] = [channel.from ?? quantile(0.02), quantile(0.98)];
  if (channel.centre !== undefined) {
    high = Math.max(Math.abs(quantile(0.02)), Math.abs(high)) || 1;
    low = -high;
  }
  if (!(high > low)) high = low + 1;
  const diverging = channel.centre !== undefined;
  const strength = (x) => Math.max(0, Math.min(1, diverging ? Math.abs(map(x)) / high : (map(x) - low) / (high - low)));
  const back = (x) => (channel.map ? Math.exp(x) : x);
  channel.scale = { strength, sign: (x) => Math.sign(diverging ? map(x) : x), low: back(low), high: back(high), diverging };
  return channel.scale;
}
