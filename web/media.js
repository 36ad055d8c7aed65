/** Microphones and speakers: asked for on a click, never before. */
import { $, h, memory } from "./dom.js";
import { CallFailure } from "./errors.js";

/** `?raw=1` turns the browser's voice processing off, for tests of the sound. */
const raw = new URLSearchParams(location.search).get("raw") === "1";

/**
 * Opens the chosen microphone.
 * @returns {Promise<MediaStreamTrack>}
 */
export async function openMicrophone() {
  if (!navigator.mediaDevices?.getUserMedia) throw new CallFailure("insecure");
  // Before the first permission the list has no names, and so not the one that was chosen last time.
  const chosen = $("microphone").value || memory.get("microphone");
  try {
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: {
        echoCancellation: !raw,
        noiseSuppression: !raw,
        autoGainControl: !raw,
        channelCount: 1,
        ...(chosen ? { deviceId: { exact: chosen } } : {}),
      },
    });
    await listDevices();
    return stream.getAudioTracks()[0];
  } catch (error) {
    if (/** @type {any} */ (error).name === "OverconstrainedError") {
      memory.set("microphone", "");
      $("microphone").value = "";
    }
    throw error;
  }
}

/** Fills both lists; names are known only after the microphone was allowed once. */
export async function listDevices() {
  if (!navigator.mediaDevices?.enumerateDevices) return;
  const devices = await navigator.mediaDevices.enumerateDevices();
  fill($("microphone"), "microphone", devices.filter((device) => device.kind === "audioinput"));
  const speakers = devices.filter((device) => device.kind === "audiooutput");
  fill($("speaker"), "speaker", speakers);
  $("speaker-field").hidden = !("setSinkId" in HTMLMediaElement.prototype) || speakers.length === 0;
}

/**
 * @param {HTMLSelectElement} select
 * @param {string} key
 * @param {MediaDeviceInfo[]} devices
 */
function fill(select, key, devices) {
  const named = devices.filter((device) => device.deviceId && device.deviceId !== "default" && device.label);
  select.replaceChildren(
    h("option", { value: "" }, "System default"),
    ...named.map((device) => h("option", { value: device.deviceId }, device.label)),
  );
  const kept = memory.get(key);
  select.value = named.some((device) => device.deviceId === kept) ? kept : "";
}

/**
 * Plays the agent on the chosen speaker.
 * @param {any} audio
 */
export async function routeSpeaker(audio) {
  if (!("setSinkId" in audio)) return;
  try {
    await audio.setSinkId($("speaker").value);
  } catch {
    $("speaker").value = ""; // gone or not allowed: the default goes on playing
  }
}
