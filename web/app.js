/** The page: wires the call, the devices and the views together. */
import { Call } from "./call.js";
import { $, address, clock, h, memory, spell } from "./dom.js";
import { CallFailure, ending, explain } from "./errors.js";
import { showHistory } from "./history.js";
import { buildKeypad } from "./keypad.js";
import { listDevices, openMicrophone, routeSpeaker } from "./media.js";
import { Tap, wake } from "./meters.js";
import "./orb.js";
import { Transcript } from "./transcript.js";
import { setMode } from "./waterfall.js";

/** A microphone without any sound for this long is worth a hint. */
const DEAF_MS = 7000;
/** A second press within this time is a double click, not a wish to hang up. */
const DOUBLE_MS = 500;
const RAW_EVENTS = 300;

const transcript = new Transcript($("log"), { interim: $("interim"), scroller: $("scroller") });

/** @type {any} */
let info = { agent: {}, topology: {}, webrtc: { ice_servers: [] } };
/** @type {Call|null} */
let call = null;
/** @type {Tap|null} */
let callerTap = null;
/** @type {Tap|null} */
let agentTap = null;
let muted = false;
let changedAt = -DOUBLE_MS;
let liveAt = 0;
let endReason = "";
/** What is going on inside the call. */
const now = { caller: false, agent: false, held: false, waiting: false, tool: "" };

/* ---------- what the server is ---------- */

async function loadInfo() {
  let response;
  try {
    response = await fetch(address(`api/info${location.search}`), { cache: "no-store" });
  } catch {
    return alarm(new CallFailure("offline"));
  }
  if (response.status === 401) return alarm(new CallFailure("key"));
  if (!response.ok) return alarm(new CallFailure("refused", `The server answered ${response.status}.`));
  info = await response.json();
  const { agent, agents = [], topology, limits = {} } = info;
  setMode(topology.mode);
  $("agent-name").textContent = agent.name;
  $("agent-description").textContent = agent.description ?? "";
  document.title = `${agent.name} – flowcat`;
  $("demo").hidden = !info.demo;
  $("suggestions").replaceChildren(...(agent.suggestions ?? []).map((/** @type {string} */ text) =>
    h("button", { type: "button", class: "chip", onclick: () => say(text) }, text)));
  /** @type {[string, any][]} */
  const facts = [
    ["Agents", agents[1] && agents.map((/** @type {string} */ name) => h("a", { href: `?agent=${encodeURIComponent(name)}` }, name, " "))],
    ["Mode", topology.mode], ["Voice activity", topology.vad], ["Speech to text", topology.stt],
    ["Model", topology.llm], ["Text to speech", topology.tts],
    ["Lines", limits.max_calls ? `${limits.live} of ${limits.max_calls} in use` : ""],
    ["Server", `${info.name} ${info.version}`],
  ];
  $("about").replaceChildren(...facts.filter(([, value]) => value).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, ...[value].flat())]));
}

/* ---------- telling people ---------- */

/** @param {unknown} error */
function alarm(error) {
  const { title, fix, code, action } = explain(error);
  /** @type {Record<string, [string, () => any]>} */
  const actions = {
    again: ["Start again", () => begin(true)],
    type: ["Type instead", () => begin(false)],
    sound: ["Play the sound", () => $("remote").play()],
    reload: ["Reload", () => location.reload()],
  };
  const [label, act] = action ? actions[action] : ["", () => {}];
  $("alert").replaceChildren(
    h("div", { class: "alert-box" },
      h("div", {}, h("b", {}, title), h("p", {}, fix), code && h("pre", {}, code)),
      h("div", { class: "row" },
        label && h("button", { type: "button", class: "plain", onclick: () => { quiet(); act(); } }, label),
        h("button", { type: "button", class: "plain", onclick: quiet }, "Dismiss"))),
  );
}

function quiet() { $("alert").replaceChildren(); }

/** @param {string} text */
function status(text) {
  if ($("status").textContent !== text) $("status").textContent = text;
}

function mood() {
  if (!call || call.state === "ended") return "asleep";
  if (call.state === "connecting") return "waking";
  if (now.caller) return "hearing";
  if (now.agent) return "speaking";
  return now.waiting ? "thinking" : "listening";
}

function showMood() {
  const words = { asleep: "", waking: "", listening: "Listening", hearing: "Hearing you", thinking: now.tool ? `Using ${now.tool}` : "Thinking", speaking: "Speaking" };
  $("activity").textContent = now.held && call?.state === "live" ? "Agent paused" : words[mood()];
}

/* ---------- the call ---------- */

/** @param {boolean} voice @param {string} [first] said in writing once connected */
async function begin(voice, first) {
  if (call && call.state !== "ended") return;
  if (typeof RTCPeerConnection === "undefined") return alarm(new CallFailure("unsupported"));
  quiet();
  changedAt = performance.now();
  const mine = (call = new Call());
  endReason = "";
  Object.assign(now, { caller: false, agent: false, held: false, waiting: false, tool: "" });
  /** @param {string} name @param {(detail: any) => void} act */
  const on = (name, act) => mine.addEventListener(name, (event) => act(/** @type {CustomEvent} */ (event).detail));
  on("state", () => onState(mine));
  on("event", onEvent);
  on("remote", onRemote);
  on("stats", onStats);
  on("shaky", (shaky) => status(shaky ? "Connection unsteady…" : words(mine)));
  on("captions", (there) => status(there ? words(mine) : "Captions interrupted…"));
  on("failure", (failure) => { endReason = "The call failed"; alarm(failure); });
  wake();
  let track = null;
  if (voice) {
    status("Asking for the microphone…");
    try {
      track = await openMicrophone();
    } catch (error) {
      endReason = "Ready";
      mine.leave();
      status("Ready");
      return alarm(error);
    }
    if (mine.state !== "new") return track.stop(); // cancelled while the browser asked
    useTrack(track);
  }
  transcript.clear();
  $("raw").textContent = "";
  $("raw-count").textContent = "0";
  $("median").textContent = "";
  $("empty").hidden = true;
  if (first) mine.sendText(first);
  await mine.start(track, info.webrtc?.ice_servers ?? []);
}

/** @param {Call} which */
const words = (which) => ({ new: "Ready", connecting: "Connecting…", live: which.typed ? "Connected, typing" : "Connected", ending: "Hanging up…", ended: endReason || "Call ended" })[which.state];

/** @param {Call} which */
function onState(which) {
  if (which !== call) return;
  const { state } = which;
  const on = state === "connecting" || state === "live";
  status(words(which));
  $("call").classList.toggle("stop", on);
  $("call").disabled = state === "ending";
  $("call-label").textContent = state === "live" || state === "ending" ? "Hang up" : on ? "Cancel" : "Start call";
  $("text-call").disabled = state !== "ended";
  $("mute").disabled = !on || which.typed;
  $("keys").disabled = state !== "live";
  if (state === "live") liveAt = performance.now();
  if (state === "ended") finish();
  showMood();
}

function finish() {
  if (liveAt) transcript.say(`${endReason || "Call ended"} · ${clock(performance.now() - liveAt)}`);
  else if (!$("log").childElementCount) $("empty").hidden = false;
  liveAt = 0;
  setMuted(false);
  openKeys(false);
  callerTap?.close();
  agentTap?.close();
  callerTap = agentTap = null;
  $("remote").srcObject = null;
  $("meter-caller").clear();
  $("meter-agent").clear();
  $("clock").textContent = "";
  $("quality").textContent = "";
  $("copy").disabled = !transcript.text;
}

/** @param {any} event */
function onEvent(event) {
  if (event.type === "hello") return;
  const raw = $("raw");
  raw.append(`${JSON.stringify(event)}\n`);
  while (raw.childNodes.length > RAW_EVENTS) raw.firstChild.remove();
  $("raw-count").textContent = String(Number($("raw-count").textContent) + 1);
  switch (event.type) {
    case "caller_speaking": now.caller = event.speaking; now.waiting = !event.speaking; break;
    case "caller_text": if (event.final) now.waiting = true; break;
    case "agent_speaking": now.agent = event.speaking; now.held = now.waiting = false; break;
    case "agent_paused": now.held = event.paused; break;
    case "tool_started": now.tool = event.name; now.waiting = true; break;
    case "tool_ended": now.tool = ""; break;
    case "turn_completed": now.waiting = false; break;
    case "call_ended": endReason = ending(event.reason, true); break;
  }
  transcript.handle(event);
  if (event.type === "turn_completed" && transcript.median !== undefined) $("median").textContent = `Typical response ${spell(transcript.median)}`;
  $("copy").disabled = !transcript.text;
  showMood();
}

/** @param {MediaStream} stream */
async function onRemote(stream) {
  const audio = $("remote");
  audio.srcObject = stream;
  agentTap = new Tap(stream);
  await routeSpeaker(audio);
  try {
    await audio.play();
  } catch (error) {
    if (/** @type {any} */ (error).name === "NotAllowedError") alarm(new CallFailure("autoplay"));
  }
}

/** @param {{rtt: number, jitter: number, loss: number, buffer: number}} stats */
function onStats({ rtt, jitter, loss, buffer }) {
  const deaf = callerTap && !callerTap.sounded && !muted && performance.now() - liveAt > DEAF_MS;
  if (deaf) {
    $("quality").textContent = "Nothing heard from your microphone: is it switched off, or the wrong one?";
    return;
  }
  const grade = loss > 5 || rtt > 400 || jitter > 60 ? "poor" : loss > 1 || rtt > 200 || jitter > 30 ? "fair" : "clear";
  const parts = [`Line ${grade}`, `${loss.toFixed(loss < 10 ? 1 : 0)} % lost`];
  if (!Number.isNaN(rtt)) parts.splice(1, 0, `${Math.round(rtt)} ms round trip`, `${Math.round(jitter)} ms jitter`);
  $("quality").textContent = parts.join(" · ");
  $("quality").title = Number.isNaN(buffer) ? "" : `Jitter buffer ${Math.round(buffer)} ms`;
}

/** @param {MediaStreamTrack} track */
function useTrack(track) {
  callerTap?.close();
  callerTap = new Tap(new MediaStream([track]));
  track.addEventListener("ended", () => call && call.state !== "ended" && alarm(new CallFailure("unplugged")));
}

/** Says something in writing: in this call, or in a new one. @param {string} text */
function say(text) {
  const words = text.trim();
  if (!words) return;
  if (call && call.state !== "ended") call.sendText(words);
  else begin(false, words);
}

/** @param {boolean} value */
function setMuted(value) {
  muted = value;
  call?.mute(value);
  $("mute").setAttribute("aria-pressed", String(value));
  $("mute").title = value ? "Unmute (M)" : "Mute (M)";
  $("mute-icon").setAttribute("href", value ? "#i-mic-off" : "#i-mic");
}

/** @param {boolean} open */
function openKeys(open) {
  $("keypad").hidden = !open;
  $("keys").setAttribute("aria-expanded", String(open));
  if (open) $("keypad").querySelector("button").focus();
}

/* ---------- controls ---------- */

$("call").addEventListener("click", () => {
  if (performance.now() - changedAt < DOUBLE_MS) return;
  if (!call || call.state === "ended") return begin(true);
  changedAt = performance.now();
  if (call.state === "live") endReason = "You hung up";
  else endReason = "Ready";
  if (call.state === "live") call.hangUp();
  else call.leave();
});
$("text-call").addEventListener("click", () => { begin(false); $("text").focus(); });
$("mute").addEventListener("click", () => setMuted(!muted));
$("keys").addEventListener("click", () => openKeys($("keypad").hidden));
buildKeypad($("keypad"), (digit) => call?.sendDigit(digit));

$("composer").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  say($("text").value);
  $("text").value = "";
});

$("microphone").addEventListener("change", async () => {
  memory.set("microphone", $("microphone").value);
  if (!call || call.typed || call.state !== "live") return;
  try {
    const track = await openMicrophone();
    useTrack(track);
    await call.replaceTrack(track);
  } catch (error) {
    alarm(error);
  }
});
$("speaker").addEventListener("change", () => {
  memory.set("speaker", $("speaker").value);
  routeSpeaker($("remote"));
});
navigator.mediaDevices?.addEventListener?.("devicechange", listDevices);

$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(transcript.text);
    status("Transcript copied");
    setTimeout(() => call && status(words(call)), 2000);
  } catch {
    getSelection()?.selectAllChildren($("log")); // no clipboard on plain http: select it for the person
  }
});

const THEMES = ["", "light", "dark"];
/** @param {string} theme */
function setTheme(theme) {
  const label = `Colours: ${theme || "as the system"}`;
  document.documentElement.dataset.theme = theme;
  $("theme").title = label;
  $("theme").querySelector(".sr").textContent = label;
  memory.set("theme", theme);
}
$("theme").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "") + 1) % THEMES.length]));

/* ---------- keyboard ---------- */

$("help").addEventListener("click", () => $("shortcuts").showModal());
$("shortcuts-on").checked = memory.get("shortcuts") !== "off";
$("shortcuts-on").addEventListener("change", () => memory.set("shortcuts", $("shortcuts-on").checked ? "" : "off"));

/** @type {Record<string, () => void>} */
const KEYS = {
  m: () => !$("mute").disabled && setMuted(!muted),
  k: () => !$("keys").disabled && openKeys($("keypad").hidden),
  t: () => $("text").focus(),
  "?": () => $("shortcuts").showModal(),
};
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const target = /** @type {HTMLElement} */ (event.target);
  if (event.key === "Escape" && target.closest("#keypad")) {
    openKeys(false);
    return $("keys").focus();
  }
  if (target.closest("input:not([type=checkbox]), select, textarea, dialog") || !$("shortcuts-on").checked) return;
  const act = KEYS[event.key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  act();
});

/* ---------- views ---------- */

function route() {
  const [, view = "", id = ""] = location.hash.slice(1).split("/");
  const past = view === "history";
  $("view-call").hidden = past;
  $("view-history").hidden = !past;
  for (const [nav, current] of [[$("nav-call"), !past], [$("nav-history"), past]]) {
    if (current) nav.setAttribute("aria-current", "page");
    else nav.removeAttribute("aria-current");
  }
  if (past) showHistory(decodeURIComponent(id));
  else for (const audio of $("detail").querySelectorAll("audio")) audio.pause();
}
addEventListener("hashchange", route);
$("refresh").addEventListener("click", route);

/* ---------- the page's own life ---------- */

addEventListener("pagehide", () => call?.leave());

let drawnAt = 0;
/** @param {number} time */
function frame(time) {
  const caller = muted ? 0 : callerTap?.read() ?? 0;
  const agent = agentTap?.read() ?? 0;
  if (callerTap) $("meter-caller").push(caller, time);
  if (agentTap) $("meter-agent").push(agent, time);
  const orb = $("orb");
  orb.mood = mood();
  if (orb.mood !== "asleep" || time - drawnAt > 60) {
    orb.draw(agent, caller, time);
    drawnAt = time;
  }
  if (liveAt) {
    const text = clock(performance.now() - liveAt);
    if ($("clock").textContent !== text) $("clock").textContent = text;
  }
  requestAnimationFrame(frame);
}

setTheme(memory.get("theme"));
$("more").open = matchMedia("(min-width: 60rem)").matches;
route();
requestAnimationFrame(frame);
loadInfo();
listDevices();
