// The page's two audio threads. "capture" turns the microphone, at the context's own rate, into PCM16 at 24 kHz in
// blocks of 20 ms. "player" plays PCM16 in a context of 24 kHz: a queue with a jitter buffer that can be paused,
// resumed and cleared without a click, and that counts each sample it hands to the device.

const RATE = 24000;
const BLOCK = 480; // 20 ms
const FADE = 120; // 5 ms
const PATIENCE = 1440; // 60 ms queued before a reply starts
const MOST_PATIENCE = 12000; // 500 ms, on a bad line

const gcd = (a, b) => (b ? gcd(b, a % b) : a);

/** Polyphase windowed-sinc rate conversion, any integer rates; output j is the input at time j * from / to. */
class Resampler {
  constructor(from, to) {
    const common = gcd(from, to);
    [this.ins, this.outs] = [from / common, to / common];
    const cutoff = Math.min(1, to / from) * 0.94;
    this.half = Math.ceil(24 / Math.min(1, to / from));
    this.taps = 2 * this.half;
    this.table = new Float32Array(this.outs * this.taps);
    for (let phase = 0; phase < this.outs; phase++)
      for (let k = 0; k < this.taps; k++)
        this.table[phase * this.taps + k] = this.filter(k - this.half + 1 - phase / this.outs, cutoff);
    this.held = new Float32Array(this.taps + 4096);
    this.filled = this.half - 1; // zeros stand for what was before the first sample
    this.at = 0; // where in `held` the next output's window begins
    this.phase = 0;
  }

  filter(t, cutoff) {
    const x = Math.PI * cutoff * t;
    const turn = (Math.PI * t) / this.half;
    const window = Math.abs(t) >= this.half ? 0 : 0.42 + 0.5 * Math.cos(turn) + 0.08 * Math.cos(2 * turn); // Blackman
    return cutoff * window * (x === 0 ? 1 : Math.sin(x) / x);
  }

  /** Takes the samples of `input` and calls `emit` with each sample that can be computed. */
  push(input, emit) {
    this.held.set(input, this.filled);
    this.filled += input.length;
    while (this.at + this.taps <= this.filled) {
      const row = this.phase * this.taps;
      let sum = 0;
      for (let k = 0; k < this.taps; k++) sum += this.held[this.at + k] * this.table[row + k];
      emit(sum);
      this.phase += this.ins;
      this.at += Math.floor(this.phase / this.outs);
      this.phase %= this.outs;
    }
    const done = Math.min(this.at, this.filled);
    this.held.copyWithin(0, done, this.filled);
    this.filled -= done;
    this.at -= done;
  }
}

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate, RATE);
    this.emit = (sample) => this.add(sample);
    this.port.onmessage = () => this.hand(true); // the last block, which may be short
    this.start();
  }

  start() {
    this.block = new Int16Array(BLOCK);
    this.count = this.energy = 0;
  }

  add(sample) {
    const x = Math.max(-1, Math.min(1, sample));
    this.energy += x * x;
    this.block[this.count++] = Math.round(x * 32767);
    if (this.count === BLOCK) this.hand(false);
  }

  hand(last) {
    const pcm = this.block.slice(0, this.count);
    this.port.postMessage({ pcm, last, level: Math.sqrt(this.energy / BLOCK) }, [pcm.buffer]);
    this.start();
  }

  process([input]) {
    if (input.length) this.resampler.push(input[0], this.emit);
    return true;
  }
}

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.patience = PATIENCE;
    this.underruns = 0;
    this.gain = 0;
    this.sinceReport = 0;
    this.energy = 0;
    this.forget();
    this.port.onmessage = ({ data }) => this[data.act](data);
  }

  /** Empty; `item` is the reply that plays, of which `played` samples went to the device. */
  forget() {
    this.queue = [];
    this.offset = 0; // within queue[0]
    this.queued = 0;
    this.item = null;
    this.played = 0;
    this.waiting = true; // for the jitter buffer to fill
    this.paused = this.clearing = this.told = false;
  }

  push({ item, pcm }) {
    if (this.clearing) return;
    this.queue.push({ item, pcm, last: false });
    this.queued += pcm.length;
  }

  /** No more audio of this item will come, so there is nothing to wait for. */
  end({ item }) {
    this.queue.push({ item, pcm: new Int16Array(0), last: true });
  }

  pause() {
    this.paused = true;
    this.told = false;
  }

  resume() {
    this.paused = false;
  }

  clear() {
    this.clearing = true;
  }

  get ended() {
    return this.queue.length > 0 && this.queue[this.queue.length - 1].last;
  }

  next() {
    for (;;) {
      const head = this.queue[0];
      if (head.item !== this.item) [this.item, this.played] = [head.item, 0];
      if (this.offset < head.pcm.length) break;
      this.queue.shift();
      this.offset = 0;
      if (head.last) this.finish();
      if (!this.queue.length) return 0;
    }
    this.played++;
    this.queued--;
    return this.queue[0].pcm[this.offset++] / 32768;
  }

  finish() {
    this.report("finished");
    if (!this.queue.length) [this.waiting, this.gain] = [true, 0];
  }

  process(_, [output]) {
    const out = output[0];
    if (this.waiting && (this.queued >= this.patience || this.ended)) this.waiting = false;
    for (let i = 0; i < out.length; i++) {
      if (!this.waiting && this.queued <= FADE && this.item !== null && !this.ended) this.starve();
      const on = !this.paused && !this.clearing && !this.waiting;
      this.gain = Math.max(0, Math.min(1, this.gain + (on ? 1 : -1) / FADE));
      out[i] = this.gain > 0 && this.queue.length ? this.gain * this.next() : 0;
      this.energy += out[i] * out[i];
    }
    if (this.gain === 0 || !this.queue.length) this.settle();
    this.sinceReport += out.length;
    if (this.sinceReport >= 2 * BLOCK) this.report("playing");
    return true;
  }

  /** The line is slower than the voice: fade out on what is left and wait longer from now on. */
  starve() {
    this.waiting = true;
    this.underruns++;
    this.patience = Math.min(MOST_PATIENCE, Math.ceil(this.patience * 1.5));
  }

  /** Silent now: say so to whoever asked for silence. */
  settle() {
    if (this.clearing) {
      this.report("cleared");
      this.forget();
      this.gain = 0;
    } else if (this.paused && !this.told) {
      this.told = true;
      this.gain = 0;
      this.report("paused");
    }
  }

  report(what) {
    const { item, played, queued, underruns } = this;
    const level = Math.sqrt(this.energy / Math.max(1, this.sinceReport));
    this.port.postMessage({ what, item, played, queued, underruns, level, time: currentTime });
    this.sinceReport = this.energy = 0;
  }
}

registerProcessor("capture", Capture);
registerProcessor("player", Player);
