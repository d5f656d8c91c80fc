// The socket: events of the OpenAI Realtime protocol as objects, PCM16 as binary frames. It comes back by itself after
// a break, into the same session where the server gave a resume token, and keeps what was recorded meanwhile.

const KEPT = 10 * 24000; // samples recorded during a break that are still sent afterwards
const BEHIND = 5 * 48000; // bytes waiting in a socket that is too slow to go on with
const LAST_WORDS = 3000; // ms that the last words may take once the microphone is off
const DELAYS = [250, 500, 1000, 2000, 4000, 8000]; // ms before each attempt; then it is up to the user

const LAST = new Set(["error", "conversation.item.input_audio_transcription.completed"]);

export class Connection {
  /** onEvent(event); onState("connecting"|"open"|"waiting"|"closed", detail). */
  constructor({ url, key, onEvent, onState }) {
    Object.assign(this, { url, key, onEvent, onState });
    this.token = this.session = this.last = null; // how to come back, the session's id, its last event's
    this.sent = 0; // samples, in this session
    this.attempt = 0;
    this.kept = [];
    this.keptSamples = 0;
    this.ended = false;
    this.open();
  }

  open() {
    this.onState("connecting");
    const url = new URL(this.url);
    if (this.token) {
      url.searchParams.set("resume", this.token);
      url.searchParams.set("last_event", this.last);
    }
    const protocols = this.key ? ["realtime", `openai-insecure-api-key.${this.key}`] : ["realtime"];
    this.ready = false;
    this.refusal = null;
    this.socket = new WebSocket(url, protocols);
    this.socket.onmessage = ({ data }) => this.receive(JSON.parse(data));
    this.socket.onclose = () => this.lost();
  }

  receive(event) {
    const session = event.session;
    if (event.event_id) this.last = event.event_id;
    if (session?.vivavoce?.resume_token) this.token = session.vivavoce.resume_token;
    if (event.type === "error") this.fail(event.error);
    this.onEvent(event);
    if (event.type === "session.created") this.begin(session);
    if (LAST.has(event.type)) this.finished?.();
  }

  /** Samples of this session so far: those sent and those that wait to be. */
  get samples() {
    return this.sent + this.keptSamples;
  }

  fail({ code, type, retry_after_s: seconds }) {
    const whys = { server_full: "full", server_draining: "restarting", invalid_api_key: "key" };
    const why = whys[code] ?? whys[type];
    if (why && !this.ready) this.refusal = { why, seconds };
    if (code === "unknown_resume_token") this.token = null;
  }

  begin({ id }) {
    this.attempt = 0;
    this.ready = true;
    const resumed = id !== undefined && id === this.session;
    this.session = id;
    if (!resumed) this.sent = 0;
    this.onState("open", { resumed });
    const kept = this.kept;
    [this.kept, this.keptSamples] = [[], 0];
    for (const pcm of kept) this.append(pcm);
  }

  send(event) {
    if (this.ready && this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(event));
  }

  /** Int16Array of 24 kHz PCM. */
  append(pcm) {
    if (this.ended) return;
    if (this.ready && this.socket.readyState === WebSocket.OPEN) {
      this.socket.send(pcm);
      this.sent += pcm.length;
      if (this.socket.bufferedAmount > BEHIND) this.socket.close(4000, "too slow");
      return;
    }
    this.kept.push(pcm);
    this.keptSamples += pcm.length;
    while (this.keptSamples > KEPT) this.keptSamples -= this.kept.shift().length;
  }

  lost() {
    this.ready = false;
    if (this.ended) return;
    const { why, seconds } = this.refusal ?? { why: "lost" };
    if (why === "key" || this.attempt >= DELAYS.length) {
      this.close();
      this.onState("closed", { why });
      return;
    }
    const ms = seconds ? seconds * 1000 : DELAYS[this.attempt];
    this.attempt++;
    this.onState("waiting", { why, ms });
    this.timer = setTimeout(() => this.open(), ms);
  }

  /** No more sound comes: waits for the last words, then closes. */
  async finish() {
    if (this.ready) {
      const finished = new Promise((resolve) => (this.finished = resolve));
      this.send({ type: "input_audio_buffer.commit" });
      await Promise.race([finished, new Promise((resolve) => setTimeout(resolve, LAST_WORDS))]);
    }
    this.close();
  }

  close() {
    this.ended = true;
    clearTimeout(this.timer);
    this.socket.close(1000);
  }
}
