/** Levels of both sides: a tap on a stream, and `<level-meter>` that shows it. */

/** Quietest and loudest level shown, dBFS. */
const FLOOR_DB = -62;
const TOP_DB = -10;

/** @type {AudioContext|null} */
let context = null;

/** One context for the page, made on the first click: browsers start none before. */
export function wake() {
  context ??= new AudioContext({ latencyHint: "interactive" });
  context.resume();
  return context;
}

/** Reads the level of an audio stream, 0 to 1 on a scale of decibels. */
export class Tap {
  level = 0;
  /** Anything above digital silence was heard. */
  sounded = false;
  #analyser;
  #source;
  #samples;

  /** @param {MediaStream} stream */
  constructor(stream) {
    const audio = wake();
    this.#analyser = audio.createAnalyser();
    this.#analyser.fftSize = 1024;
    this.#samples = new Float32Array(this.#analyser.fftSize);
    this.#source = audio.createMediaStreamSource(stream);
    this.#source.connect(this.#analyser);
  }

  /** Call once a frame: rises at once, falls slowly. */
  read() {
    this.#analyser.getFloatTimeDomainData(this.#samples);
    let sum = 0;
    for (const sample of this.#samples) sum += sample * sample;
    const db = 10 * Math.log10(sum / this.#samples.length + 1e-12);
    if (db > -85) this.sounded = true;
    const now = Math.min(1, Math.max(0, (db - FLOOR_DB) / (TOP_DB - FLOOR_DB)));
    this.level = now > this.level ? now : this.level * 0.86 + now * 0.14;
    return this.level;
  }

  close() { this.#source.disconnect(); }
}

/** A row of bars that passes by like a strip chart: one new bar each 60 ms. */
class LevelMeter extends HTMLElement {
  #canvas = document.createElement("canvas");
  /** @type {number[]} */
  #bars = [];
  #at = 0;
  #loudest = 0;

  connectedCallback() {
    this.append(this.#canvas);
    new ResizeObserver(() => this.#draw()).observe(this);
  }

  /** @param {number} level 0 to 1 @param {number} now milliseconds */
  push(level, now) {
    this.#loudest = Math.max(this.#loudest, level);
    if (now - this.#at < 60) return;
    this.#at = now;
    this.#bars.unshift(this.#loudest);
    this.#bars.length = Math.min(this.#bars.length, 160);
    this.#loudest = 0;
    this.dataset.level = (this.#bars[0] ?? 0).toFixed(2);
    this.#draw();
  }

  clear() {
    this.#bars = [];
    this.dataset.level = "0.00";
    this.#draw();
  }

  #draw() {
    const ratio = devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this;
    const canvas = this.#canvas;
    if (canvas.width !== width * ratio || canvas.height !== height * ratio) {
      canvas.width = width * ratio;
      canvas.height = height * ratio;
    }
    const pen = canvas.getContext("2d");
    if (!pen) return;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.fillStyle = getComputedStyle(this).color;
    const count = Math.floor(width / 5);
    for (let index = 0; index < count; index++) {
      const level = this.#bars[index] ?? 0;
      const tall = Math.max(2, level * height);
      pen.globalAlpha = level > 0.02 ? 0.35 + 0.65 * (1 - index / count) : 0.22;
      pen.beginPath();
      pen.roundRect(width - 4 - index * 5, (height - tall) / 2, 3, tall, 1.5);
      pen.fill();
    }
  }
}

customElements.define("level-meter", LevelMeter);
