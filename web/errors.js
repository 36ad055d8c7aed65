/** What went wrong, in words a person understands, and what to do about it. */

/** A call that could not start or go on. */
export class CallFailure extends Error {
  /**
   * @param {string} code one of the keys of `WORDS`
   * @param {string} [detail] the server's or the browser's own words
   */
  constructor(code, detail = "") {
    super(detail || code);
    this.code = code;
    this.detail = detail;
  }
}

/** @typedef {{title: string, fix: string, code?: string, action?: "again"|"type"|"sound"|"reload"}} Explanation */

const port = () => location.port || (location.protocol === "https:" ? "443" : "80");

/** @type {Record<string, (detail: string) => Explanation>} */
const WORDS = {
  NotAllowedError: () => ({
    title: "The microphone is blocked for this page",
    fix: "Open the site settings next to the address, allow the microphone and start again. Or type instead.",
    action: "type",
  }),
  NotFoundError: () => ({
    title: "No microphone was found",
    fix: "Plug one in, or switch it on in the system's sound settings, and start again. Or type instead.",
    action: "type",
  }),
  NotReadableError: () => ({
    title: "The microphone is in use or does not answer",
    fix: "Close other programs that use it, or choose another microphone below, and start again.",
    action: "again",
  }),
  OverconstrainedError: () => ({
    title: "The chosen microphone is not there any more",
    fix: "The choice was set back to the system's default. Start again.",
    action: "again",
  }),
  insecure: () => ({
    title: "The browser keeps the microphone closed on this address",
    fix: `Microphones need https or localhost. Use the server's https address, or forward the port and open http://localhost:${port()}. Typing works here as well.`,
    code: `ssh -L ${port()}:localhost:${port()} ${location.hostname}`,
    action: "type",
  }),
  unplugged: () => ({
    title: "The microphone was unplugged",
    fix: "Choose another one under Devices, or type. The call goes on.",
  }),
  full: (detail) => ({
    title: "All lines are busy",
    fix: detail || "The server has as many calls as it may take. Wait for one to end and start again.",
    action: "again",
  }),
  draining: () => ({
    title: "The server is restarting",
    fix: "It finishes its calls and takes no new one. Start again in a minute.",
    action: "again",
  }),
  refused: (detail) => ({
    title: "The server refused the call",
    fix: detail || "Look into the server's log for the reason.",
    action: "again",
  }),
  key: () => ({
    title: "This page is signed out",
    fix: "Open the address again that the server printed when it started: it carries the key.",
    action: "reload",
  }),
  offline: () => ({
    title: "The server does not answer",
    fix: "Check that flowcat-server is running and that this machine reaches it, then start again.",
    action: "again",
  }),
  ice: () => ({
    title: "No sound path to the server",
    fix: "The page reaches the server, but audio (UDP) does not get through. Open the ports of webrtc.port_range in the firewall, or set webrtc.advertise_ip to the address that this machine can reach.",
    action: "again",
  }),
  lost: () => ({
    title: "The connection was lost",
    fix: "The network or the server went away in the middle of the call. What was said is kept above.",
    action: "again",
  }),
  autoplay: () => ({
    title: "The browser holds the sound back",
    fix: "Press the button to hear the agent.",
    action: "sound",
  }),
  unsupported: () => ({
    title: "This browser cannot make calls",
    fix: "It has no WebRTC, or WebRTC is switched off. A current Firefox, Chrome, Edge or Safari can.",
  }),
};

/**
 * @param {unknown} error a `CallFailure`, a `DOMException` of getUserMedia, or anything else
 * @returns {Explanation}
 */
export function explain(error) {
  const failure = /** @type {any} */ (error);
  const code = failure instanceof CallFailure ? failure.code : String(failure?.name);
  const words = WORDS[code];
  if (words) return words(failure.detail ?? "");
  return {
    title: "Something went wrong",
    fix: String(failure?.message || failure),
    action: "again",
  };
}

/** Why a call ended, as in `flowcat_server.core.ended`. @type {Record<string, string>} */
const REASONS = {
  "caller.hung_up": "You hung up",
  "caller.media_lost": "The caller's line went dead",
  "caller.idle": "Nobody spoke any more",
  "agent.ended": "The agent said goodbye",
  "agent.transferred": "Transferred",
  "callee.busy": "The line was busy",
  "callee.no_answer": "Nobody answered",
  "callee.failed": "The number could not be reached",
  "machine.hung_up": "Hung up on a machine",
  "machine.message_left": "Left a message on a machine",
  "operator.hung_up": "Ended by the operator",
  "carrier.closed": "The carrier closed the line",
  "carrier.protocol_error": "The carrier sent nonsense",
  "provider.failed": "A provider failed",
  "server.drained": "The server restarted",
  "server.max_call": "The longest call length was reached",
  "server.error": "The server made a mistake",
  "server.killed": "The server was killed",
};

/**
 * @param {string|null|undefined} reason
 * @param {boolean} [mine] this page's own call
 */
export function ending(reason, mine = false) {
  if (reason === "caller.hung_up" && !mine) return "Caller hung up";
  return REASONS[reason ?? ""] ?? reason ?? "";
}
