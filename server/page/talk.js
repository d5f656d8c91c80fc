// A conversation's sound: replies go to the player, and when the user talks over one it is paused at once, then played
// on or dropped as the server decides. It knows no page; `player` and `send` are handed in, times are ms of `now()`.

const TOLD = 12; // of the player's reports, 40 ms apart, one goes to the server
const UNDECIDED = 4000; // ms after the user's last word; then a server that decides nothing has dropped nothing

export class Talk {
  /** player: see audio.js. send(event) to the server. heardAt(ms): when that moment of the session's input was
   *  captured. padding: ms by which an utterance is said to begin before its first sound. onChange(): `speaking` or
   *  `interruptions` changed. onFirstSound(ms): the time from the user's last sound to the reply's first. */
  constructor({ player, send, heardAt, padding = 0, onChange, onFirstSound, now = () => performance.now() }) {
    Object.assign(this, { player, send, heardAt, padding, onChange, onFirstSound, now });
    this.playing = new Set(); // items given to the player and not played to their end
    this.dropped = new Set(); // items cut short: what still comes of them is thrown away
    this.response = null; // in progress on the server
    this.barge = null; // an interruption that the server has yet to decide
    this.interruptions = []; // {outcome, paused: ms from the user's first sound to silence, noticed: likewise from the
    // server's word}
    this.silentSince = null; // when the user's last words ended
    this.timed = new Set(); // replies whose first sound was timed
    this.last = null; // the player's last word on how a reply ended
    this.reports = 0;
  }

  get speaking() {
    return this.playing.size > 0;
  }

  receive(event) {
    this[event.type]?.(event);
  }

  "response.created"({ response }) {
    if (this.barge) this.cut(); // it answers the interruption, so the reply before it is over
    this.response = response.id;
  }

  "response.output_audio.delta"({ item_id, delta }) {
    if (this.dropped.has(item_id)) return;
    this.player.push(item_id, decode(delta));
    if (!this.playing.has(item_id)) {
      this.playing.add(item_id);
      this.onChange();
    }
  }

  "response.output_audio.done"({ item_id }) {
    if (!this.dropped.has(item_id)) this.player.end(item_id);
  }

  "response.done"({ response }) {
    if (response.id === this.response) this.response = null;
    if (response.status === "cancelled") this.cut();
  }

  "input_audio_buffer.speech_started"({ audio_start_ms }) {
    clearTimeout(this.patience);
    if (!this.speaking || this.barge) return;
    this.barge = { onset: this.heardAt((audio_start_ms ?? 0) + this.padding), told: this.now(), outcome: "undecided" };
    this.interruptions.push(this.barge);
    this.player.pause();
  }

  "input_audio_buffer.speech_stopped"({ audio_end_ms }) {
    this.silentSince = this.heardAt(audio_end_ms ?? 0);
    if (this.barge) this.patience = setTimeout(() => this["vivavoce.output_audio.resumed"](), UNDECIDED);
  }

  "vivavoce.output_audio.resumed"() {
    if (!this.barge) return;
    this.settle("resumed");
    this.player.resume();
  }

  "output_audio_buffer.cleared"() {
    this.cut();
  }

  /** The user's own wish for silence. */
  interrupt() {
    if (this.response) this.send({ type: "response.cancel" });
    this.cut();
  }

  cut() {
    if (this.barge) this.settle("cancelled");
    if (!this.speaking) return;
    for (const item of this.playing) this.dropped.add(item);
    this.playing.clear();
    this.player.clear();
    this.onChange();
  }

  settle(outcome) {
    clearTimeout(this.patience);
    this.barge.outcome = outcome;
    this.barge = null;
    this.onChange();
  }

  /** What the player says of itself. */
  report({ what, item, played }) {
    if (what === "paused" || what === "cleared") this.silent();
    if (what === "finished" || what === "cleared") this.last = { what, item, played };
    const heard = { item_id: item, audio_end_ms: Math.floor(played / 24) };
    if (what === "cleared" && this.dropped.has(item))
      this.send({ type: "conversation.item.truncate", content_index: 0, ...heard });
    else if (this.playing.has(item) && (what !== "playing" || this.reports++ % TOLD === 0))
      this.send({ type: "vivavoce.output_audio.played", ...heard });
    if (what === "finished" && this.playing.delete(item)) this.onChange();
    if (what === "playing" && played && !this.timed.has(item)) this.time(item, played);
  }

  silent() {
    const last = this.interruptions.at(-1);
    if (!last || last.noticed !== undefined) return;
    Object.assign(last, { paused: this.now() - last.onset, noticed: this.now() - last.told });
    this.onChange();
  }

  time(item, played) {
    this.timed.add(item);
    if (this.silentSince === null) return;
    this.onFirstSound(this.now() - played / 24 + this.player.latency - this.silentSince);
    this.silentSince = null;
  }
}

/** Base64 of little-endian PCM16 -> Int16Array. */
export function decode(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return new Int16Array(bytes.buffer, 0, bytes.length >> 1);
}
