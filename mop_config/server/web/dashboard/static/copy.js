// Puts an endpoint's URL on the clipboard.

const SHOWN = 2000;

/** Let the buttons with `data-copy` work; `words` says what came of it. */
export function copyOnClick(words) {
  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (button) {
      const done = await copy(button.dataset.copy);
      say(button, done ? words.copied : words.copyFailed);
    }
  });
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Browsers have that only where the page came over https, or from this machine.
    return copyFromField(text);
  }
}

function copyFromField(text) {
  const field = document.createElement("textarea");
  const focused = document.activeElement;
  field.value = text;
  field.className = "hidden";
  field.readOnly = true;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus({ preventScroll: true });
  return done;
}

function say(button, text) {
  const label = button.querySelector("[data-live]");
  const said = document.getElementById("said");
  label.textContent = text;
  said.textContent = `${text}: ${button.dataset.copy}`;
  setTimeout(() => {
    label.textContent = "";
    said.textContent = "";
  }, SHOWN);
}
