// What is on the screen: the transcript, one line of state, figures of delay, the strip of levels. It is told what to
// show and knows nothing of where it came from.

import { NAMES } from "./transcript.js";

const STAGES = {
  turn: "Knowing that you had finished",
  silence: "Waiting for the silence",
  words: "The last words",
  thinking: "Thinking",
  voice: "Voice",
  network: "Network and playback",
};
const KEPT = 20; // delays of which the median is shown

const ms = (x) => (x < 995 ? `${Math.round(x)} ms` : `${(x / 1000).toFixed(2)} s`);

export class View {
  constructor(document) {
    this.document = document;
    this.body = document.body;
    this.lines = new Map(); // entry id -> li
    this.delays = [];
    const wide = matchMedia("(min-width: 60rem)");
    const fit = () => (this.get("more").open = wide.matches);
    wide.addEventListener("change", fit);
    fit();
  }

  get(id) {
    return this.document.getElementById(id);
  }

  askForKey() {
    this.get("key-section").hidden = false;
    this.get("more").open = true;
  }

  state(state, text, tone = "calm") {
    this.body.dataset.state = state;
    this.body.dataset.tone = tone;
    this.body.toggleAttribute("data-on", state !== "idle");
    this.get("go-label").textContent = state === "idle" ? "Start" : "Stop";
    if (this.get("status").textContent !== text) this.get("status").textContent = text;
  }

  mode(mode) {
    this.body.dataset.mode = mode;
    // In a conversation a screen reader would speak into the microphone, over the agent's own voice.
    this.get("said").ariaLive = mode === "talk" ? "off" : "polite";
    this.delays = [];
  }

  /** Puts an entry where it belongs: growing ones below, finished ones among the finished, in the order they began. */
  show(transcript, entry) {
    const line = this.lines.get(entry.id) ?? this.line(entry);
    const [, text, tail] = line.children;
    const space = entry.text.trim() && entry.tail.trim() ? " " : "";
    [text.textContent, tail.textContent] = [entry.text.trim(), space + entry.tail.trim()];
    line.dataset.state = entry.state;
    line.hidden = !(text.textContent || tail.textContent || entry.state === "failed");
    const home = this.get(entry.state === "open" ? "growing" : "said");
    if (line.parentNode !== home) home.insertBefore(line, this.following(transcript, entry, home));
    this.get("empty").hidden = true;
    this.body.toggleAttribute("data-named", transcript.said.some((e) => e.who === "agent"));
    this.savable(transcript.said.length > 0);
    this.follow();
  }

  line({ id, who }) {
    const line = this.document.createElement("li");
    line.dataset.who = who;
    for (const [name, text] of [["who", NAMES[who]], ["words", ""], ["tail", ""]]) {
      const span = this.document.createElement("span");
      [span.className, span.textContent] = [name, text];
      line.append(span);
    }
    this.lines.set(id, line);
    return line;
  }

  following(transcript, entry, home) {
    const ids = [...transcript.entries.keys()];
    const later = ids.slice(ids.indexOf(entry.id) + 1).map((id) => this.lines.get(id));
    return later.find((line) => line?.parentNode === home) ?? null;
  }

  /** Keeps the newest line in sight, unless the reader has scrolled up. */
  follow() {
    const text = this.get("transcript");
    const near = text.scrollHeight - text.scrollTop - text.clientHeight < 200;
    if (near) text.scrollTop = text.scrollHeight;
  }

  clear() {
    for (const line of this.lines.values()) line.remove();
    this.lines.clear();
    this.get("empty").hidden = false;
    this.savable(false);
  }

  savable(is) {
    for (const button of this.document.querySelectorAll("[data-save], #forget")) button.disabled = !is;
  }

  /** talk: the conversation's sound, or null when it ended. */
  speaking(talk) {
    this.get("interrupt").hidden = !talk?.speaking;
    const last = talk?.interruptions.at(-1);
    if (!last?.paused) return;
    const how = { cancelled: "and gave way", resumed: "and went on", undecided: "and waits" }[last.outcome];
    this.state("on", `Fell silent ${ms(last.paused)} after you began, ${how}`);
  }

  lookahead(value) {
    const frames = value / 80;
    this.get("lookahead-value").textContent = ms(value);
    this.get("lookahead").setAttribute("aria-valuetext", `${value} milliseconds`);
    const delay = ms((frames + 1) * 80 + 12.5);
    this.get("lookahead-hint").textContent = `A sound shows after ${delay} at worst. More is more accurate, and later.`;
  }

  captionDelay(value) {
    this.delay(value, (n) => `from a sound to its text, median of ${n}`);
  }

  replyDelay(value) {
    const known = this.known?.reduce((sum, stage) => sum + stage.ms, 0);
    if (known) this.draw([...this.known, { name: "network", ms: Math.max(0, value - known) }]);
    this.delay(value, (n) => `from your last word to the first sound of the answer, median of ${n}`);
  }

  delay(value, what) {
    this.delays = [...this.delays, value].slice(-KEPT);
    const sorted = [...this.delays].sort((a, b) => a - b);
    const median = ms(sorted[sorted.length >> 1]);
    for (const id of ["delay-total", "delay-brief"]) this.get(id).textContent = median;
    this.get("delay-what").textContent = what(sorted.length);
  }

  /** [{name, ms}], as the server measured them. */
  stages(stages) {
    this.known = stages;
    this.draw(stages);
  }

  draw(stages) {
    const made = (tag, text, i) => {
      const element = this.document.createElement(tag);
      element.textContent = text;
      element.style.setProperty("--shade", String(1 - (0.75 * i) / stages.length));
      return element;
    };
    const bars = stages.map((stage, i) => {
      const bar = made("i", "", i);
      bar.style.flexGrow = String(Math.max(0, stage.ms));
      bar.style.opacity = "var(--shade)";
      return bar;
    });
    this.get("stages-bar").replaceChildren(...bars);
    this.get("stages").replaceChildren(...stages.flatMap((stage, i) => {
      const name = made("dt", "", i);
      name.append(made("span", STAGES[stage.name] ?? stage.name, i));
      return [name, made("dd", ms(stage.ms), i)];
    }));
  }
}

/** The last seconds of both levels: yours upwards, the agent's downwards. A meter to a screen reader. */
export class Strip {
  constructor(canvas) {
    this.canvas = canvas;
    this.levels = []; // [yours, the agent's], newest last, one each 40 ms
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.agent = this.blocks = this.peak = 0;
    this.drawing = false;
    this.draw();
    new ResizeObserver(() => this.later()).observe(canvas);
  }

  /** Called 50 times a second. */
  mine(level) {
    this.peak = Math.max(this.peak, level);
    if (++this.blocks % 2) return;
    this.levels.push([loudness(this.peak), loudness(this.agent)]);
    if (this.levels.length > 1000) this.levels.splice(0, 500);
    if (this.blocks % 25 === 0) this.canvas.ariaValueNow = String(Math.round(100 * loudness(this.peak)));
    this.peak = 0;
    this.later();
  }

  theirs(level) {
    this.agent = level;
  }

  rest() {
    this.levels = [];
    this.agent = 0;
    this.canvas.ariaValueNow = "0";
    this.later();
  }

  later() {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      this.draw();
    });
  }

  draw() {
    const { canvas, levels } = this;
    const [scale, style] = [devicePixelRatio, getComputedStyle(canvas)];
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    [canvas.width, canvas.height] = [width * scale, height * scale];
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const bar = (x, w, [yours, agents]) => {
      pen.fillStyle = style.color;
      pen.fillRect(x, height / 2 - 0.5 - (yours * height) / 2, w, 1 + (yours * height) / 2);
      pen.fillStyle = style.accentColor;
      pen.fillRect(x, height / 2, w, (agents * height) / 2);
    };
    if (this.still.matches) {
      const [yours, agents] = levels.at(-1) ?? [0, 0];
      pen.fillStyle = style.color;
      pen.fillRect(0, height / 2 - 4, Math.max(1, yours * width), 3);
      pen.fillStyle = style.accentColor;
      pen.fillRect(0, height / 2 + 1, Math.max(1, agents * width), 3);
      return;
    }
    const count = Math.ceil(width / 4);
    for (let i = 0; i < count; i++) bar(width - 4 * (i + 1), 2, levels[levels.length - 1 - i] ?? [0, 0]);
  }
}

/** RMS 0 to 1 -> 0 to 1 over the 54 dB that speech has. */
const loudness = (rms) => Math.max(0, Math.min(1, 1 + Math.log10(Math.max(rms, 1e-6)) / 2.7));
