// Logs in with the key behind "#", and says when the daemon no longer tells what happens. htmx does the rest.
"use strict";

const login = document.getElementById("login");
const cut = document.getElementById("cut");

function logIn() {
  if (location.hash.length > 1) {
    login.elements.key.value = location.hash.slice(1);
    history.replaceState(null, "", location.pathname);
    login.requestSubmit();
  }
}

if (login) {
  window.addEventListener("hashchange", logIn);
  logIn();
}

if (cut) {
  document.body.addEventListener("htmx:sseOpen", () => { cut.hidden = true; });
  document.body.addEventListener("htmx:sseError", () => { cut.hidden = false; });
}
