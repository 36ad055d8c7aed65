/** A telephone's keys. */
import { h } from "./dom.js";

const LETTERS = ["", "", "ABC", "DEF", "GHI", "JKL", "MNO", "PQRS", "TUV", "WXYZ"];

/**
 * @param {HTMLElement} pad filled with the keys; takes them from the keyboard too while it is focused
 * @param {(digit: string) => void} press
 */
export function buildKeypad(pad, press) {
  for (const digit of "123456789*0#") {
    pad.append(h("button", { type: "button", class: "key", "data-digit": digit, onclick: () => press(digit) },
      digit, h("small", { "aria-hidden": "true" }, LETTERS[Number(digit)] ?? "")));
  }
  pad.addEventListener("keydown", (event) => {
    if (!/^[0-9*#]$/.test(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    /** @type {any} */ (pad.querySelector(`[data-digit="${event.key}"]`))?.focus();
    press(event.key);
  });
}
