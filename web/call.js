/** One call: peer connection, events socket, their end. Knows nothing of the page. */
import { address } from "./dom.js";
import { CallFailure } from "./errors.js";

/** Longest wait for ICE candidates before the offer is sent with those at hand. */
const GATHER_MS = 1000;
/** A machine knows its own addresses at once; TCP candidates come 100 ms later. */
const OWN_MS = 20;
/** From the answer to the first packet, as long as the server waits. */
const CONNECT_MS = 15000;
/** The last events of a call arrive within this time after the hang-up. */
const FAREWELL_MS = 1500;
const PING_MS = 4000;
/** Without a frame for this long the socket is dead: a pulled cable closes nothing. */
const SILENT_MS = 12000;
const RETRY_MS = [300, 1000, 2000];
/** A socket that lived this long was a good one: the next loss is counted from the start. */
const GOOD_MS = 5000;

/** Asks for in-band FEC: a sender uses it only if the other side asked. @param {string} sdp */
export function withFec(sdp) {
  const opus = /a=rtpmap:(\d+) opus\/48000/i.exec(sdp)?.[1];
  if (!opus) return sdp;
  const fmtp = new RegExp(`a=fmtp:${opus} ([^\\r\\n]*)`);
  const found = fmtp.exec(sdp);
  if (!found) return sdp.replace(new RegExp(`(a=rtpmap:${opus} [^\\r\\n]*)`), `$1\r\na=fmtp:${opus} minptime=10;useinbandfec=1`);
  return found[1].includes("useinbandfec=1") ? sdp : sdp.replace(fmtp, `a=fmtp:${opus} $1;useinbandfec=1`);
}

/**
 * Emits CustomEvents: `state` (`connecting`, `live`, `ended`), `event` (one of the server's), `remote` (a MediaStream),
 * `stats`, `shaky` (boolean), `captions` (boolean: the events socket is there) and `failure` (a CallFailure, once, before `ended`).
 */
export class Call extends EventTarget {
  /** @type {"new"|"connecting"|"live"|"ending"|"ended"} */
  state = "new";
  /** Only typed: no microphone was opened. */
  typed = true;
  #peer = new RTCPeerConnection();
  #abort = new AbortController();
  #peerId = "";
  /** @type {WebSocket|null} */
  #socket = null;
  /** @type {MediaStreamTrack|null} */
  #track = null;
  /** Lines and keys of which the server has not said that it took them. @type {object[]} */
  #outbox = [];
  /** How many went before those in the outbox, and how many have been sent at all. */
  #taken = 0;
  #sent = 0;
  /** The socket is one that the server answers. */
  #greeted = false;
  /** @type {number[]} */
  #timers = [];
  #heardAt = 0;
  #openedAt = 0;
  #retries = 0;
  /** Number of the last event that came. */
  #seen = 0;
  /** The server has said that the call is over. */
  #told = false;
  /** @type {{lost: number, received: number}} */
  #before = { lost: 0, received: 0 };

  /**
   * @param {MediaStreamTrack|null} track the microphone, or null for a typed call
   * @param {RTCIceServer[]} iceServers
   */
  async start(track, iceServers) {
    this.#to("connecting");
    this.#track = track;
    this.typed = !track;
    const peer = this.#peer;
    peer.setConfiguration({ iceServers });
    if (track) peer.addTrack(track, new MediaStream([track]));
    else peer.addTransceiver("audio", { direction: "recvonly" });
    peer.addEventListener("track", ({ track: remote, streams }) => {
      this.#emit("remote", streams[0] ?? new MediaStream([remote]));
    });
    peer.addEventListener("connectionstatechange", () => this.#onPeer());
    try {
      const offer = await peer.createOffer();
      await peer.setLocalDescription({ type: "offer", sdp: withFec(offer.sdp ?? "") });
      await this.#gathered(iceServers.length > 0);
      await this.#answer(await this.#post(peer.localDescription?.sdp ?? ""));
    } catch (error) {
      if (this.#over) return;
      this.#fail(error instanceof CallFailure ? error : new CallFailure("refused", String(error)));
    }
  }

  /** Says something in writing; kept until the socket is open. @param {string} text */
  sendText(text) { this.#send({ type: "text", text }); }

  /** Presses a key of the telephone. @param {string} digit */
  sendDigit(digit) { this.#send({ type: "digit", digit }); }

  /** @param {boolean} muted */
  mute(muted) { if (this.#track) this.#track.enabled = !muted; }

  /** Changes the microphone in mid-call. @param {MediaStreamTrack} track */
  async replaceTrack(track) {
    track.enabled = this.#track?.enabled ?? true;
    const sender = this.#peer.getSenders().find((each) => each.track === this.#track);
    await sender?.replaceTrack(track);
    this.#track?.stop();
    this.#track = track;
  }

  /** The caller hangs up; the last events may still arrive for a moment. */
  hangUp() {
    if (this.#over || this.state === "ending") return;
    const open = this.#socket?.readyState === WebSocket.OPEN;
    this.#to("ending");
    this.#track?.stop();
    if (!open) return this.leave();
    this.#socket?.send(JSON.stringify({ type: "hangup" }));
    this.#later(() => this.leave(), FAREWELL_MS);
  }

  /** Ends at once, also while the page is being closed. */
  leave() {
    if (this.#over) return;
    if (this.#peerId) navigator.sendBeacon(address(`webrtc/hangup/${encodeURIComponent(this.#peerId)}`));
    this.#end();
  }

  get #over() { return this.state === "ended"; }

  /** @param {boolean} reflexive a server is asked how the outside sees this machine: that takes a while */
  async #gathered(reflexive) {
    const peer = this.#peer;
    if (peer.iceGatheringState === "complete") return;
    await new Promise((done) => {
      this.#later(() => done(undefined), GATHER_MS);
      if (!reflexive) peer.addEventListener("icecandidate", () => this.#later(() => done(undefined), OWN_MS), { once: true });
      peer.addEventListener("icegatheringstatechange", () => peer.iceGatheringState === "complete" && done(undefined));
    });
  }

  /** @param {string} sdp */
  async #post(sdp) {
    let response;
    try {
      response = await fetch(address(`webrtc/offer${location.search}`), {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ sdp, client: "page" }),
        signal: this.#abort.signal,
      });
    } catch (error) {
      throw this.#over ? error : new CallFailure("offline");
    }
    if (response.ok) return response.json();
    const words = (await response.text()).trim().slice(0, 300);
    if (response.status === 401) throw new CallFailure("key");
    if (response.status !== 503) throw new CallFailure("refused", words);
    let told = { error: "refused", message: words };
    try { told = JSON.parse(words); } catch { /* a proxy's own page */ }
    const kind = { full: "full", overloaded: "full", draining: "draining" }[told.error] ?? "refused";
    throw new CallFailure(kind, told.message);
  }

  /** @param {{sdp: string, pc_id: string}} answer */
  async #answer({ sdp, pc_id: peerId }) {
    this.#peerId = peerId;
    await this.#peer.setRemoteDescription({ type: "answer", sdp: withFec(sdp) });
    this.#listen();
    this.#later(() => this.state === "connecting" && this.#fail(new CallFailure("ice")), CONNECT_MS);
    this.#every(() => this.#measure(), 1000);
    this.#every(() => this.#ping(), PING_MS);
  }

  /** @param {string} [after] where to go on after the socket was lost */
  #listen(after = "") {
    const url = address(`webrtc/events/${encodeURIComponent(this.#peerId)}?format=native${after}`);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url);
    this.#socket = socket;
    this.#heardAt = this.#openedAt = performance.now();
    this.#greeted = false;
    socket.addEventListener("message", ({ data }) => {
      this.#heardAt = performance.now();
      const event = JSON.parse(data);
      if (event.type === "pong") return;
      if (event.type === "hello") this.#onHello(event);
      this.#seen = event.seq ?? this.#seen;
      this.#emit("event", event);
      if (event.type !== "call_ended") return;
      this.#told = true;
      // The last word may still be in the jitter buffer.
      this.#later(() => this.#end(), this.state === "ending" ? 0 : 400);
    });
    socket.addEventListener("close", () => socket === this.#socket && this.#onSocketClosed());
  }

  /** The server says how much it has of what was written into a socket that broke. @param {{taken?: number}} hello */
  #onHello({ taken = this.#sent }) {
    this.#outbox.splice(0, taken - this.#taken);
    this.#taken = taken;
    this.#greeted = true;
    for (const message of this.#outbox) this.#socket?.send(JSON.stringify(message));
    this.#sent = this.#taken + this.#outbox.length;
    this.#emit("captions", true);
  }

  async #onSocketClosed() {
    if (this.#over || this.#told) return;
    if (this.state === "ending") return this.#end();
    this.#emit("captions", false);
    if (performance.now() - this.#openedAt > GOOD_MS) this.#retries = 0;
    if (this.#retries < RETRY_MS.length) {
      const wait = RETRY_MS[this.#retries++];
      if (await this.#serverAnswers()) return this.#later(() => !this.#over && this.#listen(`&after=${this.#seen}`), wait);
    } else if (this.#peer.connectionState === "connected" && (await this.#serverAnswers())) {
      return; // sound goes on without captions
    }
    if (!this.#over) this.#fail(new CallFailure("lost"));
  }

  async #serverAnswers() {
    try {
      await fetch(address("api/info"), { signal: AbortSignal.timeout(3000), cache: "no-store" });
      return true;
    } catch {
      return false;
    }
  }

  #ping() {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    if (performance.now() - this.#heardAt < SILENT_MS) return this.#socket.send('{"type":"ping"}');
    const dead = this.#socket;
    this.#socket = null;
    dead.close(); // its close event would wait for the peer: go on without it
    this.#onSocketClosed();
  }

  #onPeer() {
    const state = this.#peer.connectionState;
    if (state === "connected" && this.state === "connecting") this.#to("live");
    this.#emit("shaky", state === "disconnected");
    if ((state !== "failed" && state !== "closed") || this.#over || this.#told) return;
    if (this.state === "ending") this.#end();
    else if (this.state !== "live") this.#fail(new CallFailure("ice"));
    // The server closes the line and then says why: its last event may still be on the way.
    else this.#later(() => this.#told || this.#fail(new CallFailure("lost")), FAREWELL_MS);
  }

  async #measure() {
    const stats = { rtt: NaN, jitter: NaN, loss: 0, buffer: NaN };
    for (const each of (await this.#peer.getStats()).values()) {
      if (each.type === "candidate-pair" && each.nominated && each.currentRoundTripTime !== undefined) {
        stats.rtt = each.currentRoundTripTime * 1000;
      }
      if (each.type !== "inbound-rtp") continue;
      const lost = each.packetsLost - this.#before.lost;
      const received = each.packetsReceived - this.#before.received;
      this.#before = { lost: each.packetsLost, received: each.packetsReceived };
      stats.jitter = each.jitter * 1000;
      stats.loss = lost > 0 ? (100 * lost) / (lost + received) : 0;
      if (each.jitterBufferEmittedCount) stats.buffer = (1000 * each.jitterBufferDelay) / each.jitterBufferEmittedCount;
    }
    if (this.state === "live") this.#emit("stats", stats);
  }

  /** @param {object} message */
  #send(message) {
    this.#outbox.push(message);
    if (this.#outbox.length > 50) {
      this.#outbox.shift();
      this.#taken++;
    }
    if (!this.#greeted || this.#socket?.readyState !== WebSocket.OPEN) return;
    this.#socket.send(JSON.stringify(message));
    this.#sent = this.#taken + this.#outbox.length;
  }

  /** @param {CallFailure} failure */
  #fail(failure) {
    this.#emit("failure", failure);
    this.leave();
  }

  #end() {
    if (this.#over) return;
    this.#abort.abort();
    for (const timer of this.#timers) clearTimeout(timer);
    this.#track?.stop();
    this.#socket?.close();
    this.#peer.close();
    this.#to("ended");
  }

  /** @param {() => void} what @param {number} ms */
  #later(what, ms) { this.#timers.push(setTimeout(what, ms)); }

  /** @param {() => void} what @param {number} ms */
  #every(what, ms) { this.#timers.push(setInterval(what, ms)); }

  /** @param {"connecting"|"live"|"ending"|"ended"} state */
  #to(state) {
    if (this.#over) return;
    this.state = state;
    this.#emit("state", state);
  }

  /** @param {string} name @param {any} detail */
  #emit(name, detail) { this.dispatchEvent(new CustomEvent(name, { detail })); }
}
