// What was said, as a value: the server's events go in, entries come out, and from those the files to download.
// It knows no page and no socket. Times are milliseconds since the first sample of the session.

/** @typedef {{id: string, who: "you"|"agent", text: string, tail: string, start: number, end: number,
 *             state: "open"|"final"|"interrupted"|"failed"}} Entry   tail: words that may still change */

export class Transcript {
  constructor(base = 0) {
    /** @type {Map<string, Entry>} in the order in which they began */
    this.entries = new Map();
    this.base = base; // ms of recording before the present session
  }

  /** A fresh session's times count from here. */
  begin(base) {
    this.base = base;
  }

  /** Takes any event of the protocol; gives the entry it changed, if it changed one. */
  apply(event) {
    const change = CHANGES[event.type];
    const id = event.item_id ?? event.item?.id;
    return change && id ? change(this, id, event) : undefined;
  }

  entry(id, who, start = 0) {
    let entry = this.entries.get(id);
    if (!entry) {
      entry = { id, who, text: "", tail: "", start, end: start, state: "open" };
      this.entries.set(id, entry);
    }
    return entry;
  }

  get last() {
    return [...this.entries.values()].reduce((last, entry) => Math.max(last, entry.end), 0);
  }

  /** What is worth keeping, in order. */
  get said() {
    return [...this.entries.values()].filter((entry) => words(entry));
  }

  toText() {
    const named = this.said.some((entry) => entry.who === "agent");
    return this.said.map((e) => (named ? `${NAMES[e.who]}: ` : "") + words(e) + "\n").join("");
  }

  toSrt() {
    const cue = (e, i) => `${i + 1}\n${srtTime(e.start)} --> ${srtTime(Math.max(e.end, e.start + 1))}\n${words(e)}\n`;
    return [...this.said].sort((a, b) => a.start - b.start).map(cue).join("\n");
  }

  toJson() {
    const entries = this.said.map((e) => ({
      speaker: e.who, text: words(e), start: e.start / 1000, end: e.end / 1000, state: e.state,
    }));
    return JSON.stringify({ entries }, null, 2) + "\n";
  }
}

export const NAMES = { you: "You", agent: "Agent" };

/** Everything of an entry, the words that may still change included. */
export const words = (entry) => joined(entry.text.trim(), entry.tail.trim());

const joined = (a, b) => (a && b ? `${a} ${b}` : a || b);

const srtTime = (ms) => {
  const part = (unit, base, width) => String(Math.floor(ms / unit) % base).padStart(width, "0");
  return `${part(3600000, 100, 2)}:${part(60000, 60, 2)}:${part(1000, 60, 2)},${part(1, 1000, 3)}`;
};

const heard = (t, id) => t.entry(id, "you", t.last);

const spoke = (t, id, { delta }) => {
  const entry = t.entry(id, "agent", t.last);
  entry.text += delta;
  return entry;
};

const ended = (t, id, { transcript, text }) => {
  const entry = t.entry(id, "agent", t.last);
  if (entry.state === "open") entry.text = transcript ?? text ?? entry.text;
  return entry;
};

const CHANGES = {
  "input_audio_buffer.speech_started": (t, id, { audio_start_ms: ms = 0 }) =>
    Object.assign(t.entry(id, "you"), { start: t.base + ms, end: t.base + ms }),
  "input_audio_buffer.speech_stopped": (t, id, { audio_end_ms: ms = 0 }) =>
    Object.assign(heard(t, id), { end: t.base + ms }),
  "conversation.item.input_audio_transcription.delta": (t, id, { delta = "", vivavoce = {} }) => {
    const entry = heard(t, id);
    entry.text += delta;
    entry.tail = vivavoce.tail ?? "";
    entry.end = Math.max(entry.end, t.base + (vivavoce.end_ms ?? 0));
    return entry;
  },
  "conversation.item.input_audio_transcription.completed": (t, id, { transcript }) =>
    Object.assign(heard(t, id), { text: transcript, tail: "", state: "final" }),
  "conversation.item.input_audio_transcription.failed": (t, id) => Object.assign(heard(t, id), { state: "failed" }),
  "response.output_audio_transcript.delta": spoke,
  "response.output_text.delta": spoke,
  "response.output_audio_transcript.done": ended,
  "response.output_text.done": ended,
  "response.output_item.done": (t, id, { item }) => {
    if (item.type !== "message") return undefined;
    const entry = t.entry(id, "agent", t.last);
    if (entry.state === "open") entry.state = item.status === "incomplete" ? "interrupted" : "final";
    return entry;
  },
  "conversation.item.truncated": (t, id) => Object.assign(t.entry(id, "agent"), { state: "interrupted" }),
  "conversation.item.retrieved": (t, id, { item }) => {
    const part = item.content?.find((c) => c.transcript !== undefined || c.text !== undefined);
    if (item.role !== "assistant" || !part) return undefined;
    return Object.assign(t.entry(id, "agent"), { text: part.transcript ?? part.text });
  },
};
