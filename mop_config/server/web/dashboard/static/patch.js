// Makes one tree of elements like another, touching only what differs: focus, selection,
// scrolling and what is unfolded stay.

/** Make `old` like `fresh`. Elements with `data-live` keep their contents. */
export function patch(old, fresh) {
  const focused = document.activeElement;
  patchElement(old, fresh);
  // An element that was moved has lost it.
  if (focused !== document.activeElement && focused.isConnected) {
    focused.focus({ preventScroll: true });
  }
}

function patchElement(old, fresh) {
  patchAttributes(old, fresh);
  if (!("live" in old.dataset)) {
    patchChildren(old, fresh);
  }
}

function patchAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !isUsers(old, name)) {
      old.removeAttribute(name);
    }
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value && !isUsers(old, name)) {
      old.setAttribute(name, value);
    }
  }
}

// What is unfolded, typed or chosen is not the server's to change.
function isUsers(element, name) {
  const kind = element.localName;
  return (
    (kind === "details" && name === "open") ||
    (kind === "input" && name === "value" && element.type !== "hidden") ||
    (kind === "option" && name === "selected")
  );
}

function patchChildren(old, fresh) {
  const keyed = new Map([...old.children].filter(keyOf).map((child) => [keyOf(child), child]));
  const wanted = new Set([...fresh.children].map(keyOf));
  let at = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    // What is gone goes first, so that what stays need not move.
    while (at !== null && keyOf(at) && !wanted.has(keyOf(at))) {
      at = drop(at);
    }
    const same = keyOf(next) ? keyed.get(keyOf(next)) : isAlike(at, next) ? at : undefined;
    if (same === undefined) {
      const arrived = document.importNode(next, true);
      old.insertBefore(arrived, at);
      if (keyOf(arrived)) {
        arrived.classList.add("arrived");
      }
      continue;
    }
    if (same === at) {
      at = at.nextSibling;
    } else {
      old.insertBefore(same, at);
    }
    patchNode(same, next);
  }
  while (at !== null) {
    at = drop(at);
  }
}

function patchNode(old, fresh) {
  if (old.nodeType === Node.ELEMENT_NODE) {
    patchElement(old, fresh);
  } else if (old.data !== fresh.data) {
    old.data = fresh.data;
  }
}

function isAlike(old, fresh) {
  return (
    old !== null && old.nodeType === fresh.nodeType && old.nodeName === fresh.nodeName && !keyOf(old)
  );
}

function keyOf(node) {
  return node.dataset?.key ?? node.id;
}

function drop(node) {
  const next = node.nextSibling;
  node.remove();
  return next;
}
