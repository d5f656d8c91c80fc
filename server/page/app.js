// The page itself: what the buttons do, and how events of the session become text, states and figures on the screen.

import { Microphone, NoMicrophone, Player } from "./audio.js";
import { Connection } from "./connection.js";
import { Talk } from "./talk.js";
import { Transcript } from "./transcript.js";
import { Strip, View } from "./view.js";

const FORMAT = { type: "audio/pcm", rate: 24000 };
const FRAME = 80; // ms of one step of the slider
const LOOKAHEAD = { captions: 480, talk: 80 }; // ms to begin with
const PADDING = 300; // ms before speech that count as its beginning, so that no first sound is lost

const PROBLEMS = {
  insecure: "Browsers give the microphone only to pages over https, or on localhost.",
  blocked: "The microphone is blocked. Allow it in the browser's address bar, then press start.",
  missing: "No microphone was found. Plug one in, then press start.",
  busy: "The microphone cannot be opened. Another program may be using it.",
  gone: "The microphone went away. Plug it in again, then press start.",
  lost: "The connection to the server was lost. Press start to try again.",
  full: "The server is full. Press start to try again.",
  restarting: "The server is restarting. Press start to try again.",
  key: "The server asks for a key. Enter it under Delay and settings, then press start.",
};

class App {
  constructor() {
    this.view = new View(document);
    this.strip = new Strip(this.view.get("strip"));
    this.transcript = new Transcript();
    this.running = null; // {microphone, player, connection, talk} while on
    this.chosen = { ...LOOKAHEAD };
    this.recorded = 0; // ms, by microphones closed since
    this.listen();
    this.view.lookahead(this.lookahead);
    this.keyFits();
  }

  get mode() {
    return document.body.dataset.mode;
  }

  get lookahead() {
    return Number(this.view.get("lookahead").value) * FRAME;
  }

  listen() {
    const on = (id, type, act) => this.view.get(id).addEventListener(type, act);
    on("go", "click", () => (this.running ? this.stop() : this.start()));
    on("interrupt", "click", () => this.running?.talk?.interrupt());
    on("lookahead", "input", () => this.view.lookahead(this.lookahead));
    on("lookahead", "change", () => this.configure());
    on("adaptive", "change", () => this.configure());
    on("forget", "click", () => this.forget());
    for (const radio of document.getElementsByName("mode"))
      radio.addEventListener("change", () => this.change(radio.value));
    for (const button of document.querySelectorAll("[data-save]"))
      button.addEventListener("click", () => save(this.transcript, button.dataset.save));
    document.addEventListener("keydown", ({ key }) => key === "Escape" && this.running?.talk?.interrupt());
  }

  /** A server with keys says so to anyone who asks for its models. */
  async keyFits() {
    const key = this.view.get("key").value;
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    const answer = await fetch("v1/models", { headers }).catch(() => null);
    const fits = answer?.status !== 401;
    if (!fits) this.view.askForKey();
    return fits;
  }

  async change(mode) {
    const on = this.running !== null;
    if (on) await this.stop();
    this.chosen[this.mode] = this.lookahead;
    this.view.mode(mode);
    this.view.get("lookahead").value = this.chosen[mode] / FRAME;
    this.view.lookahead(this.lookahead);
    if (on) await this.start();
  }

  async start() {
    const running = (this.running = {});
    this.view.state("asking", "Allow the microphone");
    if (!(await this.keyFits())) return this.fail("key");
    try {
      const heard = (pcm, level) => this.heard(running, pcm, level);
      running.microphone = await Microphone.open(heard, () => this.fail("gone"));
      if (this.mode === "talk") running.player = await Player.open((report) => this.played(running, report));
    } catch (error) {
      if (!(error instanceof NoMicrophone)) console.error(error);
      return this.fail(error.why ?? "busy");
    }
    if (this.running !== running) return this.end(running); // stopped meanwhile
    this.connect(running);
  }

  connect(running) {
    const url = new URL("v1/realtime", location.href.replace(/^http/, "ws"));
    if (this.mode === "captions") url.searchParams.set("intent", "transcription");
    const connection = new Connection({
      url,
      key: this.view.get("key").value,
      onEvent: (event) => this.receive(running, event),
      onState: (state, detail) => this.running === running && this.connected(running, state, detail),
    });
    running.connection = connection;
    if (!running.player) return;
    running.talk = new Talk({
      player: running.player,
      send: (event) => connection.send(event),
      heardAt: (ms) => this.heardAt(running, ms),
      padding: PADDING,
      onChange: () => this.view.speaking(running.talk),
      onFirstSound: (ms) => this.view.replyDelay(ms),
    });
  }

  /** When, by performance.now(), that moment of the session's input was captured. */
  heardAt({ microphone, connection }, ms) {
    return microphone.at - connection.samples / 24 + ms;
  }

  heard(running, pcm, level) {
    if (this.running !== running) return;
    running.connection?.append(pcm);
    this.strip.mine(level);
  }

  played(running, report) {
    if (this.running !== running) return;
    this.strip.theirs(report.level);
    running.talk?.report(report);
  }

  connected(running, state, detail) {
    if (state === "connecting") this.view.state("connecting", "Connecting");
    if (state === "waiting") this.view.state("waiting", waiting(detail), "alert");
    if (state === "closed") this.fail(detail.why);
    if (state !== "open") return;
    if (!detail.resumed) this.begin(running);
    this.view.state("on", this.mode === "talk" ? "Listening, speak when you like" : "Listening");
  }

  begin({ connection, microphone }) {
    connection.send({ type: "session.update", session: this.session() });
    this.transcript.begin(this.recorded + (microphone.samples - connection.samples) / 24);
  }

  configure() {
    this.running?.connection?.send({ type: "session.update", session: this.session() });
  }

  session() {
    const adaptive_lookahead = this.view.get("adaptive").checked;
    const vivavoce = { lookahead_ms: this.lookahead, adaptive_lookahead, stats: true };
    if (this.mode === "captions") {
      const turn_detection = { type: "server_vad", prefix_padding_ms: PADDING };
      return { type: "transcription", audio: { input: { format: FORMAT, turn_detection } }, vivavoce };
    }
    const input = { format: FORMAT, turn_detection: { type: "semantic_vad" } };
    return { type: "realtime", output_modalities: ["audio"], audio: { input, output: { format: FORMAT } }, vivavoce };
  }

  receive(running, event) {
    const entry = this.transcript.apply(event);
    if (entry) this.view.show(this.transcript, entry);
    if (this.running !== running) return;
    running.talk?.receive(event);
    if (event.type === "vivavoce.stats") this.view.stages(event.stages);
    if (event.type === "error") this.complain(event.error);
    if (event.type === "conversation.item.truncated")
      running.connection.send({ type: "conversation.item.retrieve", item_id: event.item_id }); // what was really heard
    if (event.type === "conversation.item.input_audio_transcription.delta" && event.vivavoce?.end_ms && !running.talk)
      this.view.captionDelay(performance.now() - this.heardAt(running, event.vivavoce.end_ms));
  }

  complain({ message }) {
    if (this.running.connection.ready) this.view.state("on", message, "alert");
  }

  async stop() {
    const running = this.running;
    this.running = null;
    this.view.state("idle", "Stopping");
    await this.end(running);
    if (!this.running) this.view.state("idle", "Stopped");
  }

  async fail(why) {
    const running = this.running;
    this.running = null;
    this.view.state("idle", PROBLEMS[why], "alert");
    await this.end(running);
  }

  /** Hands in the last sound, waits for its words, and lets go of the devices. */
  async end(running) {
    this.strip.rest();
    this.view.speaking(null);
    await running?.microphone?.close((pcm) => running.connection?.append(pcm));
    this.recorded += (running?.microphone?.samples ?? 0) / 24;
    await running?.player?.close();
    await running?.connection?.finish();
  }

  forget() {
    this.transcript = new Transcript(this.transcript.base);
    this.view.clear();
  }
}

const waiting = ({ why, ms }) =>
  ({
    full: `The server is full. Trying again in ${Math.ceil(ms / 1000)} s`,
    restarting: `The server is restarting. Trying again in ${Math.ceil(ms / 1000)} s`,
  })[why] ?? "The connection was lost. Coming back; what you say meanwhile is kept";

function save(transcript, format) {
  const [type, text] = {
    txt: ["text/plain", () => transcript.toText()],
    srt: ["application/x-subrip", () => transcript.toSrt()],
    json: ["application/json", () => transcript.toJson()],
  }[format];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text()], { type }));
  link.download = `transcript.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

globalThis.vivavoce = new App(); // for the console, and for tests
