// Microphone and loudspeaker, around the two worklets. The microphone's context runs at the device's rate; the
// loudspeaker's at 24 kHz, the rate of the voice, so that its samples can be counted exactly.

const RATE = 24000;

async function context(options) {
  const made = new AudioContext({ latencyHint: "interactive", ...options });
  await made.audioWorklet.addModule(new URL("worklets.js", import.meta.url));
  return made;
}

/** Why there is no microphone: "insecure", "blocked", "missing" or "busy". */
export class NoMicrophone extends Error {
  constructor(why) {
    super(why);
    this.why = why;
  }
}

async function ask() {
  if (!navigator.mediaDevices) throw new NoMicrophone("insecure");
  const audio = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    const why = { NotAllowedError: "blocked", SecurityError: "blocked", NotFoundError: "missing" }[error.name];
    throw new NoMicrophone(why ?? "busy");
  }
}

export class Microphone {
  /** onBlock(Int16Array at 24 kHz, level 0 to 1), 50 times a second; onGone() when the device goes away.
   *  Raises NoMicrophone. */
  static async open(onBlock, onGone) {
    const stream = await ask();
    const microphone = new Microphone();
    microphone.stream = stream;
    microphone.context = await context();
    const source = microphone.context.createMediaStreamSource(stream);
    const options = { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" };
    microphone.node = new AudioWorkletNode(microphone.context, "capture", options);
    microphone.samples = 0;
    microphone.onBlock = onBlock;
    microphone.node.port.onmessage = ({ data }) => microphone.take(data);
    source.connect(microphone.node);
    for (const track of stream.getTracks()) track.onended = onGone;
    await microphone.context.resume();
    return microphone;
  }

  take({ pcm, level, last }) {
    this.samples += pcm.length;
    this.at = performance.now();
    this.onBlock(pcm, level);
    if (last) this.flushed();
  }

  /** Ends the recording; onLast(Int16Array) takes its last samples. */
  async close(onLast) {
    this.onBlock = onLast;
    const flushed = new Promise((resolve) => (this.flushed = resolve));
    this.node.port.postMessage(null);
    await Promise.race([flushed, new Promise((resolve) => setTimeout(resolve, 2000))]); // a dead device gives nothing
    this.onBlock = () => {};
    for (const track of this.stream.getTracks()) [track.onended] = [null, track.stop()];
    await this.context.close();
  }
}

export class Player {
  /** onReport({what: "playing"|"paused"|"cleared"|"finished", item, played, queued, underruns, level}). */
  static async open(onReport) {
    const player = new Player();
    player.context = await context({ sampleRate: RATE });
    player.node = new AudioWorkletNode(player.context, "player", { numberOfInputs: 0, outputChannelCount: [1] });
    player.node.connect(player.context.destination);
    player.status = { what: "playing", item: null, played: 0, queued: 0, underruns: 0, level: 0 };
    player.node.port.onmessage = ({ data }) => player.hear(data, onReport);
    await player.context.resume();
    return player;
  }

  hear(status, onReport) {
    this.status = status;
    onReport(status);
  }

  /** ms between a sample's leaving the worklet and its sounding. */
  get latency() {
    return ((this.context.baseLatency ?? 0) + (this.context.outputLatency ?? 0)) * 1000;
  }

  push(item, pcm) {
    this.node.port.postMessage({ act: "push", item, pcm }, [pcm.buffer]);
  }

  end(item) {
    this.node.port.postMessage({ act: "end", item });
  }

  /** Silence within 5 ms, everything kept; reported as "paused". */
  pause() {
    this.node.port.postMessage({ act: "pause" });
  }

  resume() {
    this.node.port.postMessage({ act: "resume" });
  }

  /** Silence, and forget what is queued; reported as "cleared" with the item and how much of it was played. */
  clear() {
    this.node.port.postMessage({ act: "clear" });
  }

  close() {
    return this.context.close();
  }
}
