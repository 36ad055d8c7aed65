/** Calls of the past: list, transcript, recording. */
import { $, address, clock, h, icon, spell } from "./dom.js";
import { ending } from "./errors.js";
import { Transcript } from "./transcript.js";

/** Longest recording that is fetched whole to draw its wave. */
const WAVE_MS = 300_000;

const when = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** @param {string} path @param {RequestInit} [options] */
async function ask(path, options) {
  const response = await fetch(address(path), options);
  if (response.status === 401) throw new Error("This page is signed out: open the address again that the server printed.");
  if (!response.ok) throw new Error(`The server answered ${response.status}.`);
  return response;
}

/** A call's state while nobody has answered. @param {any} call */
const unanswered = (call) => (call.live && /^(dialling|ringing)$/.test(call.status) ? call.status : "");

const why = (/** @type {any} */ error) => error.message;
const pathOf = (/** @type {string} */ id) => `api/calls/${encodeURIComponent(id)}`;

/** @param {any} call */
const facts = (call) =>
  [call.channel, call.direction === "outbound" ? `to ${call.to}` : call.from, unanswered(call), call.live ? "" : clock(call.duration_ms ?? 0), `${call.turns ?? 0}\u00a0${call.turns === 1 ? "turn" : "turns"}`].filter(Boolean).join(" · ");

/** Shows the list, and one call if the address names it. @param {string} id */
export async function showHistory(id) {
  const list = $("calls");
  const note = $("calls-note");
  $("view-history").classList.toggle("one", Boolean(id));
  try {
    const { calls } = await (await ask("api/calls?limit=50")).json();
    note.textContent = calls.length ? "" : "No calls yet.";
    list.replaceChildren(...calls.map((/** @type {any} */ call) =>
      h("li", {},
        h("a", { href: `#/history/${encodeURIComponent(call.id)}`, ...(call.id === id ? { "aria-current": "true" } : {}) },
          h("b", {}, when.format(new Date(call.started_at))),
          call.live && h("span", { class: "tag live" }, "live"),
          call.recording && h("span", { class: "tag" }, "recorded"),
          h("span", { class: "soft" }, `${call.agent} · ${facts(call)}`),
          !call.live && h("span", { class: "soft" }, ending(call.ended_reason)),
        ))));
  } catch (error) {
    note.textContent = `The list could not be read. ${why(error)}`;
    list.replaceChildren();
  }
  await showCall(id);
}

/** @param {string} id */
async function showCall(id) {
  const detail = $("detail");
  if (!id) return detail.replaceChildren(h("p", { class: "empty soft" }, "Choose a call to read and hear it again."));
  if (detail.dataset.id !== id) detail.replaceChildren();
  detail.dataset.id = id;
  let record;
  try {
    record = await (await ask(pathOf(id))).json();
  } catch (error) {
    return detail.replaceChildren(h("p", { class: "empty", role: "alert" }, `This call could not be read. ${why(error)}`));
  }
  if (detail.dataset.id !== id) return; // another one was chosen meanwhile
  const { call } = record;
  const audio = call.recording
    ? h("audio", { controls: true, preload: "metadata", src: address(`${pathOf(id)}/recording`).href, "aria-label": "Recording" })
    : null;
  const log = h("div", { class: "log" });
  const transcript = new Transcript(log, { seek: audio ? (ms) => { audio.currentTime = ms / 1000; audio.play(); } : () => {} });
  replay(transcript, record);
  const wave = audio && call.duration_ms <= WAVE_MS ? h("canvas", { class: "wave", "aria-hidden": "true" }) : null;
  detail.replaceChildren(
    h("header", {},
      h("a", { class: "icon back", href: "#/history", title: "Back" }, icon("back"), h("span", { class: "sr" }, "Back to the list")),
      h("div", {},
        h("h2", {}, when.format(new Date(call.started_at))),
        h("p", { class: "soft" }, `${call.agent} · ${facts(call)} · ${call.live ? "live" : ending(call.ended_reason)}`)),
      !call.live && h("button", { class: "icon", type: "button", title: "Delete this call", onclick: () => remove(id) }, icon("bin"), h("span", { class: "sr" }, "Delete this call"))),
    audio ? h("div", { class: "player" }, wave, audio) : h("p", { class: "soft" }, "No recording."),
    transcript.median === undefined ? "" : h("p", { class: "soft" }, `Typical response ${spell(transcript.median)}, longest ${spell(Math.max(...transcript.totals))}`),
    log,
    Object.keys(record.variables ?? {}).length ? h("section", { class: "vars" }, h("h3", {}, "Noted"),
      h("dl", { class: "about" }, ...Object.entries(record.variables).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, typeof value === "string" ? value : JSON.stringify(value))]))) : "",
    record.usage?.length ? h("section", { class: "vars" }, h("h3", {}, "Used"),
      h("dl", { class: "about" }, ...record.usage.flatMap(used))) : "",
  );
  if (audio) audio.addEventListener("timeupdate", () => transcript.mark(audio.currentTime * 1000));
  if (wave) drawWave(wave, audio).catch(() => wave.remove());
}

const KINDS = { stt: "Speech to text", llm: "Model", tts: "Voice", realtime: "Speech to speech", heard: "Heard" };

/** @param {any} line of usage */
const used = ({ kind, provider, model, characters, audio_ms: audio, input_tokens: read, output_tokens: written }) => [
  h("dt", {}, [KINDS[/** @type {keyof typeof KINDS} */ (kind)], provider, model].filter(Boolean).join(" · ")),
  h("dd", {}, [characters && `${characters} characters`, audio && `${(audio / 1000).toFixed(1)} s of sound`, read && `${read} tokens in`, written && `${written} out`].filter(Boolean).join(", ")),
];

/** Tells the record again as the events it was made of. @param {Transcript} transcript @param {any} record */
function replay(transcript, { turns, events = [] }) {
  const shown = events.filter((/** @type {any} */ event) => /^(tool_|node_|digit_|notice|call_progress|answer_detected)/.test(event.type));
  for (const [index, turn] of turns.entries()) {
    const at = { turn: turn.turn, at_ms: turn.started_ms };
    if (turn.caller) transcript.handle({ ...at, type: "caller_text", text: turn.caller, final: true });
    const until = turns[index + 1]?.started_ms ?? Infinity;
    const answered = turn.started_ms + (turn.latency?.total ?? 0);
    while (shown.length && shown[0].at_ms < until) transcript.handle(shown.shift());
    transcript.handle({ ...at, type: "agent_heard", at_ms: answered, text: turn.agent ?? "", unheard: turn.unheard ?? "", interrupted: turn.interrupted });
    transcript.handle({ ...at, type: "turn_completed", caller: "", agent: "", latency: turn.latency });
  }
  for (const event of shown) transcript.handle(event);
}

/** @param {string} id */
function remove(id) {
  const dialog = $("confirm");
  dialog.returnValue = "";
  dialog.addEventListener("close", async () => {
    if (dialog.returnValue !== "delete") return;
    try {
      await ask(pathOf(id), { method: "DELETE" });
      location.hash = "#/history";
    } catch (error) {
      $("calls-note").textContent = `The call was not deleted. ${why(error)}`;
    }
  }, { once: true });
  dialog.showModal();
}

/**
 * Both lanes of the recording, caller above, agent below; a click goes there.
 * @param {HTMLCanvasElement} canvas
 * @param {HTMLAudioElement} audio
 */
async function drawWave(canvas, audio) {
  const file = await (await ask(audio.src)).arrayBuffer();
  const sound = await new OfflineAudioContext(2, 1, 8000).decodeAudioData(file);
  canvas.addEventListener("click", (event) => {
    audio.currentTime = (event.offsetX / canvas.clientWidth) * sound.duration;
    audio.play();
  });
  const lanes = [0, sound.numberOfChannels - 1].map((channel) => sound.getChannelData(channel));
  const paint = () => {
    const ratio = devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = canvas;
    if (!width) return;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const pen = canvas.getContext("2d");
    if (!pen) return;
    pen.scale(ratio, ratio);
    const style = getComputedStyle(canvas);
    const columns = Math.floor(width / 3);
    const played = audio.currentTime / sound.duration;
    for (const [lane, samples] of lanes.entries()) {
      pen.fillStyle = lane ? style.color : style.outlineColor;
      const size = samples.length / columns;
      for (let column = 0; column < columns; column++) {
        let peak = 0;
        for (let at = Math.floor(column * size); at < (column + 1) * size; at += 4) peak = Math.max(peak, Math.abs(samples[at]));
        const tall = Math.max(1.5, Math.sqrt(peak) * height * 0.48);
        pen.globalAlpha = column / columns <= played ? 1 : 0.42;
        pen.fillRect(column * 3, height * (lane ? 0.75 : 0.25) - tall / 2, 2, tall);
      }
    }
  };
  new ResizeObserver(paint).observe(canvas);
  audio.addEventListener("timeupdate", paint);
  canvas.dataset.drawn = "true";
}
