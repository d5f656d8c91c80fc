// The socket: events of the OpenAI Realtime protocol as objects, PCM16 as binary frames. It comes back by itself after
// a break, into the same session where the server gave a resume token, and keeps what was recorded meanwhile.

const KEPT = 30 * 24000; // samples recorded during a break that are still sent afterwards
const BEHIND = 2 * 48000; // bytes in a socket from which on sound rather waits here, where a break does not lose it
const LAST_WORDS = 5000; // ms without a word from the server after which none is expected
const DELAYS = [250, 500, 1000, 2000, 4000, 8000]; // ms before each attempt; then it is up to the user

const TRANSCRIPTION = "conversation.item.input_audio_transcription";
const ENDINGS = new Set([`${TRANSCRIPTION}.completed`, `${TRANSCRIPTION}.failed`]);

export class Connection {
  /** onEvent(event); onState("connecting"|"open"|"waiting"|"closed", detail). */
  constructor({ url, key, onEvent, onState }) {
    Object.assign(this, { url, key, onEvent, onState });
    this.token = this.session = this.last = null; // how to come back, the session's id, its last event's
    this.sent = 0; // samples, in this session
    this.unfinished = new Set(); // utterances whose last words are still to come
    this.attempt = 0;
    this.kept = [];
    this.keptSamples = 0;
    this.ended = false;
    this.closing = null;
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
    if (event.type === "input_audio_buffer.committed") this.unfinished.add(event.item_id);
    if (ENDINGS.has(event.type)) this.unfinished.delete(event.item_id);
    if (this.closing) this.conclude(event.type);
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
    this.flush();
  }

  send(event) {
    if (this.ready && this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(event));
  }

  /** Int16Array of 24 kHz PCM. */
  append(pcm) {
    if (this.ended) return;
    this.kept.push(pcm);
    this.keptSamples += pcm.length;
    this.flush();
    if (this.keptSamples <= KEPT) return;
    this.keptSamples -= this.kept.shift().length;
    if (this.ready) this.socket.close(4000, "nothing goes through"); // perhaps another connection does better
  }

  /** Sends what waits, as far as the line takes it. */
  flush() {
    while (this.kept.length && this.ready && this.socket.readyState === WebSocket.OPEN) {
      if (this.socket.bufferedAmount > BEHIND) return;
      const pcm = this.kept.shift();
      this.socket.send(pcm);
      this.sent += pcm.length;
      this.keptSamples -= pcm.length;
    }
  }

  lost() {
    this.ready = false;
    if (this.closing) this.closing.resolve();
    if (this.ended || this.closing) return;
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

  /** No more sound comes: waits for the last words as long as any come, then closes. */
  async finish() {
    if (this.ready)
      await new Promise((resolve) => {
        this.closing = { resolve, answered: false };
        this.send({ type: "input_audio_buffer.commit" });
        this.expect();
      });
    this.close();
  }

  expect() {
    clearTimeout(this.timer);
    this.timer = setTimeout(this.closing.resolve, LAST_WORDS);
  }

  /** The commit is answered by "committed", or by an error where nothing was left to commit. */
  conclude(type) {
    this.closing.answered ||= type === "error" || type === "input_audio_buffer.committed";
    if (this.closing.answered && !this.unfinished.size) this.closing.resolve();
    else this.expect();
  }

  close() {
    this.ended = true;
    clearTimeout(this.timer);
    this.socket.close(1000);
  }
}
