/** The conversation as it happens, and again from the records: both speak the server's events. */
import { clock, h, icon, spell } from "./dom.js";
import "./waterfall.js";
import { median } from "./waterfall.js";

/** @typedef {{type: string, at_ms: number, [field: string]: any}} CallEvent */

/** @param {unknown} value */
const pretty = (value) => {
  if (typeof value !== "string") return JSON.stringify(value, null, 2);
  try { return JSON.stringify(JSON.parse(value), null, 2); } catch { return value; }
};

/** One space between two pieces of speech, unless there is one. @param {string} before @param {string} piece */
const joined = (before, piece) => (before && !/\s$/.test(before) && !/^[\s,.;:!?]/.test(piece) ? ` ${piece}` : piece);

export class Transcript {
  /** Totals of the answered turns, in milliseconds. @type {number[]} */
  totals = [];
  /** `agent` is the reply that is being spoken; `spoken`: there was one. @type {Map<number, {block: HTMLElement, caller?: HTMLElement, agent?: HTMLElement, spoken?: boolean}>} */
  #turns = new Map();
  /** @type {Map<string, {card: HTMLElement, body: HTMLElement, state: HTMLElement}>} */
  #tools = new Map();
  /** @type {HTMLElement|null} */
  #last = null;

  /**
   * @param {HTMLElement} log where finished lines are appended (a live region, or not)
   * @param {{interim?: HTMLElement, scroller?: HTMLElement, seek?: (ms: number) => void}} [options]
   */
  constructor(log, { interim, scroller, seek } = {}) {
    this.log = log;
    this.interim = interim;
    this.scroller = scroller;
    this.seek = seek;
    this.clear();
  }

  clear() {
    this.log.replaceChildren();
    this.#turns.clear();
    this.#tools.clear();
    this.totals = [];
    this.#last = null;
    this.log.style.setProperty("--scale", "1200");
    this.#hear("");
  }

  /** @param {CallEvent} event */
  handle(event) {
    const stick = this.#atEnd();
    switch (event.type) {
      case "caller_text": this.#callerText(event); break;
      case "agent_text": this.#agentText(event); break;
      case "agent_paused": this.#agentPaused(event); break;
      case "agent_heard": this.#agentHeard(event); break;
      case "turn_completed": this.#turnCompleted(event); break;
      case "tool_started": this.#toolStarted(event); break;
      case "tool_ended": this.#toolEnded(event); break;
      case "node_entered": this.#note("node", h("span", {}, "Step: ", h("b", {}, event.name || event.node))); break;
      case "digit_pressed": this.#note("digit", h("span", {}, "Key ", h("kbd", {}, event.digit))); break;
      case "call_progress": this.#note("node", h("span", {}, `Line: ${event.status}`, event.detail && ` (${event.detail})`)); break;
      case "answer_detected": this.#note("node", h("span", {}, "Answered by: ", h("b", {}, event.answerer), event.why && ` (${event.why})`)); break;
      case "notice": this.#note(`notice ${event.level}`, h("span", {}, event.text)); break;
      case "variables": this.#variables(event.values); break;
      default: return;
    }
    if (stick) this.#toEnd();
  }

  /** A line of the page itself, such as how the call ended. @param {string} text */
  say(text) {
    this.#hear("");
    this.#last = null;
    this.#note("end", h("span", {}, text));
    this.#toEnd();
  }

  /** The typical response of this call, or undefined. */
  get median() { return this.totals.length ? median(this.totals) : undefined; }

  /** For the clipboard. */
  get text() {
    return [...this.log.querySelectorAll(".line")]
      .map((line) => `${line.classList.contains("caller") ? "Caller" : "Agent"}: ${[...line.querySelectorAll(".said")].map((said) => said.textContent).join("").trim()}`)
      .join("\n");
  }

  /** Marks the line that is heard at this moment of the recording. @param {number} ms */
  mark(ms) {
    let current = null;
    for (const line of this.log.querySelectorAll("[data-at]")) {
      line.classList.remove("now");
      if (Number(/** @type {HTMLElement} */ (line).dataset.at) <= ms) current = line;
    }
    current?.classList.add("now");
  }

  /** @param {CallEvent} event */
  #callerText({ at_ms: at, turn, text, final, typed }) {
    if (!final) return this.#hear(text);
    this.#hear("");
    const entry = this.#turn(turn);
    if (!entry.caller) entry.block.append((entry.caller = this.#line("caller", at, typed ? "typed" : "")));
    const said = /** @type {HTMLElement} */ (entry.caller.querySelector(".said"));
    const before = said.textContent ?? "";
    if (before && text.startsWith(before)) said.textContent = text;
    else said.append(joined(before, text));
  }

  /** @param {CallEvent} event */
  #agentText({ at_ms: at, turn, text }) {
    const entry = this.#turn(turn);
    if (!entry.agent) entry.block.append((entry.agent = this.#line("agent", at)));
    entry.spoken = true;
    const said = /** @type {HTMLElement} */ (entry.agent.querySelector(".said"));
    said.append(joined(said.textContent ?? "", text));
  }

  /** @param {CallEvent} event */
  #agentPaused({ turn, paused }) {
    const line = this.#turn(turn).agent;
    if (!line) return;
    line.querySelector(".tag.held")?.remove();
    if (paused) line.querySelector(".speaker")?.append(h("span", { class: "tag held", "aria-hidden": "true" }, "paused"));
  }

  /** @param {CallEvent} event */
  #agentHeard({ at_ms: at, turn, text, unheard, interrupted }) {
    if (!text && !unheard) return;
    if (!this.#turn(turn).agent) this.#agentText({ type: "agent_text", at_ms: at, turn, text: text || unheard });
    const entry = this.#turn(turn);
    const line = /** @type {HTMLElement} */ (entry.agent);
    entry.agent = undefined; // "Are you still there?" is a line of its own
    line.classList.toggle("interrupted", Boolean(interrupted));
    line.querySelector(".tag.held")?.remove();
    if (!unheard) return;
    // Assistive technology does not tell that text is struck, so words do.
    line.querySelector(".body")?.replaceChildren(
      h("span", { class: "said" }, text),
      text ? " " : "",
      h("span", { class: "sr" }, " (not heard: "),
      h("s", { class: "unheard" }, unheard),
      h("span", { class: "sr" }, ")"),
      interrupted && h("span", { class: "tag" }, "interrupted"),
    );
  }

  /** @param {CallEvent} event */
  #turnCompleted(event) {
    const entry = this.#turn(event.turn);
    if (event.caller && !entry.caller) this.#callerText({ ...event, type: "caller_text", text: event.caller, final: true, at_ms: event.started_ms });
    if (event.agent && !entry.spoken) this.#agentText({ ...event, type: "agent_text", text: event.agent });
    if (!event.latency) return;
    const total = event.latency.total;
    // Nobody has to find out when a typed line ends: it would flatter the typical response.
    if (!entry.caller?.querySelector(".tag")) this.totals.push(total);
    if (total > Number(this.log.style.getPropertyValue("--scale"))) this.log.style.setProperty("--scale", `${total}`);
    const waterfall = /** @type {any} */ (document.createElement("turn-latency"));
    waterfall.value = event.latency;
    entry.block.append(waterfall);
  }

  /** @param {CallEvent} event */
  #toolStarted({ tool_call_id: id, name, arguments: given }) {
    const state = h("span", { class: "soft" }, "running…");
    const body = h("div", { class: "card-body" }, h("p", { class: "soft" }, "Arguments"), h("pre", { tabIndex: 0 }, pretty(given ?? {})));
    const card = h("details", { class: "card running" }, h("summary", {}, icon("tool"), h("b", {}, name), state), body);
    this.#tools.set(id, { card, body, state });
    this.#append(card);
  }

  /** @param {CallEvent} event */
  #toolEnded({ tool_call_id: id, name, result, ok, duration_ms: duration, ...rest }) {
    if (!this.#tools.has(id)) this.#toolStarted({ type: "tool_started", at_ms: rest.at_ms, tool_call_id: id, name });
    const tool = this.#tools.get(id);
    if (!tool) return;
    tool.card.classList.remove("running");
    tool.card.classList.toggle("failed", ok === false);
    tool.state.textContent = `${ok === false ? "failed" : "done"} · ${spell(duration ?? 0)}`;
    tool.body.append(h("p", { class: "soft" }, "Result"), h("pre", { tabIndex: 0 }, pretty(result)));
  }

  /** @param {Record<string, unknown>} values */
  #variables(values) {
    const names = Object.keys(values);
    if (!names.length) return;
    this.#append(h("details", { class: "card" },
      h("summary", {}, h("span", { class: "soft" }, "Noted "), h("b", {}, names.join(", "))),
      h("div", { class: "card-body" }, h("pre", { tabIndex: 0 }, pretty(values))),
    ));
  }

  /** @param {string} kind @param {HTMLElement} content */
  #note(kind, content) { this.#append(h("p", { class: `note ${kind}` }, content)); }

  /** @param {HTMLElement} element */
  #append(element) { (this.#last ?? this.log).append(element); }

  /** @param {number} turn */
  #turn(turn) {
    let entry = this.#turns.get(turn);
    if (!entry) {
      entry = { block: h("div", { class: "turn" }) };
      this.#turns.set(turn, entry);
      this.log.append(entry.block);
      this.#last = entry.block;
    }
    return entry;
  }

  /** @param {"caller"|"agent"} who @param {number} at @param {string} [how] @returns {HTMLElement} */
  #line(who, at, how = "") {
    const time = this.seek
      ? h("button", { class: "time", type: "button", title: "Play from here", onclick: () => this.seek?.(at) }, clock(at))
      : h("span", { class: "time" }, clock(at));
    const line = h("div", { class: `line ${who}` }, time,
      h("div", {},
        h("span", { class: "speaker" }, who === "caller" ? (this.seek ? "Caller" : "You") : "Agent", how && h("span", { class: "tag" }, how)),
        h("p", { class: "body" }, h("span", { class: "said" })),
      ),
    );
    if (this.seek) line.dataset.at = String(at);
    return line;
  }

  /** What the caller is saying right now; a live region would read it again and again. @param {string} text */
  #hear(text) {
    if (!this.interim) return;
    this.interim.textContent = text;
    this.interim.hidden = !text;
  }

  #atEnd() {
    const box = this.scroller;
    return !box || box.scrollHeight - box.scrollTop - box.clientHeight < 80;
  }

  #toEnd() {
    if (this.scroller) this.scroller.scrollTop = this.scroller.scrollHeight;
  }
}
