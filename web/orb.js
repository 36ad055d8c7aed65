/**
 * `<agent-orb>`: the agent as a drop of ink with two ears. It sleeps between calls, pricks up its ears and glows in the
 * caller's colour while it listens, looks up while it thinks, and ripples with its own voice.
 */

/** @typedef {"asleep"|"waking"|"listening"|"hearing"|"thinking"|"speaking"} Mood */

const STEPS = 180;
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** Shape of one mood: how high the ears stand, how far the eyes are open, where they look. */
const POSES = {
  asleep: { ears: 0.33, eyes: 0, look: 0.25 },
  waking: { ears: 0.34, eyes: 0.45, look: 0 },
  listening: { ears: 0.38, eyes: 1, look: 0 },
  hearing: { ears: 0.46, eyes: 1.12, look: 0.04 },
  thinking: { ears: 0.33, eyes: 0.8, look: -0.32 },
  speaking: { ears: 0.36, eyes: 0.9, look: 0 },
};

class AgentOrb extends HTMLElement {
  /** @type {Mood} */
  mood = "asleep";
  #canvas = document.createElement("canvas");
  #pose = { ...POSES.asleep };
  #agent = 0;
  #caller = 0;
  #phase = 0;
  #blink = 0;
  #then = 0;

  connectedCallback() {
    this.append(this.#canvas);
    new ResizeObserver(() => this.draw(0, 0, this.#then)).observe(this);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw(0, 0, this.#then));
  }

  /** @param {number} agent level 0 to 1 @param {number} caller level 0 to 1 @param {number} now milliseconds */
  draw(agent, caller, now) {
    const passed = Math.min(100, Math.max(0, now - this.#then));
    this.#then = now;
    const ease = still.matches ? 1 : 1 - Math.exp(-passed / 140);
    const wanted = POSES[this.mood];
    for (const key of /** @type {("ears"|"eyes"|"look")[]} */ (Object.keys(wanted))) {
      this.#pose[key] += (wanted[key] - this.#pose[key]) * ease;
    }
    this.#agent += (agent - this.#agent) * Math.min(1, ease * 2.2);
    this.#caller += (caller - this.#caller) * Math.min(1, ease * 2.2);
    if (!still.matches) this.#phase += passed * (this.mood === "asleep" ? 0.0006 : 0.0012 + 0.003 * this.#agent);
    this.#blink = still.matches ? 1 : Math.min(1, Math.abs(((now + 700) % 4300) - 90) / 90);
    this.dataset.mood = this.mood;
    this.#paint();
  }

  #paint() {
    const ratio = devicePixelRatio || 1;
    const size = this.clientWidth;
    const canvas = this.#canvas;
    if (!size) return;
    if (canvas.width !== Math.round(size * ratio)) canvas.width = canvas.height = Math.round(size * ratio);
    const pen = canvas.getContext("2d");
    if (!pen) return;
    const style = getComputedStyle(this);
    const [ink, glow, eye] = [style.color, style.outlineColor, style.borderTopColor];
    pen.setTransform(ratio * size / 200, 0, 0, ratio * size / 200, 0, 0);
    pen.clearRect(0, 0, 200, 200);
    const breath = still.matches ? 0 : Math.sin(this.#phase * 2) * 0.012;
    const radius = 63 * (1 + breath);

    // The caller's voice: rings that reach the listener.
    for (let ring = 0; ring < 3; ring++) {
      const reach = this.#caller * (1 - ring * 0.22);
      if (reach < 0.04) continue;
      this.#outline(pen, radius + 7 + ring * 9 * (0.5 + this.#caller) + reach * 5, 0.4, 0.05 * this.#caller, ring * 2);
      pen.globalAlpha = 0.6 * reach;
      pen.strokeStyle = glow;
      pen.lineWidth = 2.2 - ring * 0.5;
      pen.stroke();
    }
    // The agent's voice: layers of its own ink.
    pen.fillStyle = ink;
    for (let layer = 2; layer >= 0; layer--) {
      const swell = 1 + layer * (0.06 + 0.12 * this.#agent);
      this.#outline(pen, radius * swell, 1 - layer * 0.36, 0.012 + 0.05 * this.#agent * (layer || 0.35), layer * 1.7);
      pen.globalAlpha = layer === 0 ? 1 : 0.15 / layer + 0.1 * this.#agent;
      pen.fill();
    }
    const light = pen.createRadialGradient(82, 72, 4, 100, 104, 84);
    light.addColorStop(0, eye);
    light.addColorStop(1, "transparent");
    pen.globalAlpha = 0.22;
    pen.fillStyle = light;
    pen.fill();
    pen.globalAlpha = 1;
    this.#face(pen, eye);
  }

  /**
   * A closed outline with two ears.
   * @param {CanvasRenderingContext2D} pen
   * @param {number} radius
   * @param {number} ears share of the pose's ears
   * @param {number} wave height of the ripples, share of the radius
   * @param {number} shift of their phase
   */
  #outline(pen, radius, ears, wave, shift) {
    pen.beginPath();
    for (let step = 0; step < STEPS; step++) {
      const angle = (step / STEPS) * 2 * Math.PI - Math.PI / 2;
      const fromTop = Math.abs(step / STEPS > 0.5 ? 1 - step / STEPS : step / STEPS) * 2 * Math.PI;
      const ear = Math.max(0, 1.04 - Math.hypot((fromTop - 0.66) / 0.4, 0.14)) ** 1.5;
      const ripple = Math.sin(3 * angle + this.#phase * 2.1 + shift) * 0.6 + Math.sin(5 * angle - this.#phase * 2.9 + shift * 1.3) * 0.4;
      const far = radius * (1 + this.#pose.ears * 1.3 * ear * ears + wave * ripple);
      pen.lineTo(100 + Math.cos(angle) * far * 1.03, 108 + Math.sin(angle) * far);
    }
    pen.closePath();
  }

  /** @param {CanvasRenderingContext2D} pen @param {string} color */
  #face(pen, color) {
    const { eyes, look } = this.#pose;
    const open = eyes < 0.3 ? eyes : eyes * this.#blink;
    const up = 104 + look * 18;
    const aside = this.mood === "thinking" ? 5 * Math.sin(this.#phase * 1.6) : 0;
    pen.fillStyle = pen.strokeStyle = color;
    pen.lineWidth = 3.4;
    pen.lineCap = "round";
    for (const side of [-1, 1]) {
      const x = 100 + side * 20 + aside;
      pen.beginPath();
      if (open < 0.18) {
        pen.arc(x, up - 4, 7, 0.25 * Math.PI, 0.75 * Math.PI);
        pen.stroke();
      } else {
        pen.ellipse(x, up, 4.6, 10.5 * Math.min(1.12, open), 0, 0, 2 * Math.PI);
        pen.fill();
      }
    }
  }
}

customElements.define("agent-orb", AgentOrb);
