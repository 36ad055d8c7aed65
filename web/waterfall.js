/** `<turn-latency>`: the time from the caller's last sound to the agent's first. */
import { h, spell } from "./dom.js";

/** In the order of time; the last column is the key of the agent file that moves the part. */
const PARTS = [
  ["endpointing", "Sure that you had finished", "turn.endpointing.min_delay"],
  ["stt_tail", "Transcript complete", "topology.stt"],
  ["llm_first_token", "Model's first word", "topology.llm"],
  ["llm_first_sentence", "First sentence", "topology.llm"],
  ["tts_first_audio", "Voice starts", "topology.tts"],
  ["send", "On the wire", "limits.max_calls"],
];

/** One model moves all but the last. */
let realtime = false;
/** @param {string} mode */
export const setMode = (mode) => { realtime = mode === "realtime"; };

/** @param {number[]} numbers */
export const median = (numbers) => numbers.toSorted((a, b) => a - b)[Math.floor((numbers.length - 1) / 2)];

class TurnLatency extends HTMLElement {
  /** @param {Record<string, number>} latency */
  set value(latency) {
    const parts = PARTS.map(([key, name, moves], index) => ({
      name, setting: realtime && index < 5 ? `topology.${index ? "model" : "options"}` : moves, index, ms: latency[key] ?? 0,
    }));
    const total = latency.total ?? parts.reduce((sum, part) => sum + part.ms, 0);
    let at = 0;
    const bars = [];
    const rows = [];
    for (const { name, setting, index, ms } of parts) {
      const place = (/** @type {HTMLElement} */ bar) => {
        bar.style.setProperty("--ms", `${ms}`);
        bar.style.setProperty("--at", `${at}`);
        return bar;
      };
      if (ms > 0) bars.push(place(h("i", { class: `p${index}`, title: `${name}: ${ms} ms, moved by ${setting}` })));
      rows.push(
        h("tr", {},
          h("th", { scope: "row" }, h("i", { class: `swatch p${index}` }), name, h("code", {}, setting)),
          h("td", { class: "track" }, place(h("i", { class: `p${index}` }))),
          h("td", { class: "ms" }, `${ms} ms`),
        ),
      );
      at += ms;
    }
    this.style.setProperty("--total", `${Math.max(1, total)}`);
    this.replaceChildren(
      h("details", {},
        h("summary", {},
          h("span", { class: "sr" }, "Answered after "),
          h("b", {}, spell(total)),
          h("span", { class: "spark", "aria-hidden": "true" }, ...bars),
        ),
        h("table", {},
          h("caption", { class: "sr" }, "Parts of the response time"),
          h("thead", { class: "sr" }, h("tr", {}, ...["Part, moved by", "When", "Time"].map((name) => h("th", { scope: "col" }, name)))),
          h("tbody", {}, ...rows),
        ),
      ),
    );
  }
}

customElements.define("turn-latency", TurnLatency);
