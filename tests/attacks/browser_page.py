"""Attacks by a web page in the user's browser, and by a rebound DNS name."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from tests.support.browser import opened_browser

PAGE = """<!doctype html><title>free kittens</title><script>
const api = %r, wanted = JSON.stringify({name: "stolen", tags: ["stolen"]});
async function attack() {
  const tries = {
    "fetch with JSON": () => fetch(api + "/flows/", {method: "POST", headers: {"Content-Type": "application/json"}, body: wanted}),
    "fetch with the user's log-in": () => fetch(api + "/flows/", {method: "POST", credentials: "include",
      headers: {"Content-Type": "application/json"}, body: wanted}),
    "fetch without CORS": () => fetch(api + "/flows/", {method: "POST", mode: "no-cors", body: wanted}),
    "beacon": async () => ({status: navigator.sendBeacon(api + "/flows/", new Blob([wanted], {type: "text/plain"}))}),
    "read": async () => ({status: (await (await fetch(api + "/admin/version")).text())}),
  };
  const found = {};
  for (const [name, attempt] of Object.entries(tries)) {
    try { const answer = await attempt(); found[name] = String(answer.status); } catch (error) { found[name] = "blocked"; }
  }
  return found;
}
</script><form id="form" method="post" enctype="text/plain" target="hidden"><input name='{"name": "stolen", "x": "' value='"}'>
</form><iframe name="hidden"></iframe>"""


@contextmanager
def evil_site(api: str) -> Iterator[str]:
    """Serve the attacker's page on another port of this machine, as a different origin."""
    content = (PAGE % api).encode()

    class Evil(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Evil) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()


def attack_by_page(api: str, log_in: tuple[str, str] | None = None) -> dict[str, str]:
    """Return the result of each attempt of a foreign page, in a browser that even knows the log-in."""
    credentials = {"username": log_in[0], "password": log_in[1]} if log_in else None
    with evil_site(api) as site, opened_browser() as browser:
        page = browser.new_context(http_credentials=credentials).new_page()
        page.goto(site)
        found: dict[str, str] = page.evaluate("attack()")
        page.evaluate(
            f"document.getElementById('form').action = {api!r} + '/flows/'; document.getElementById('form').submit()"
        )
        page.wait_for_timeout(1000)
    return found


def stolen(api: str, log_in: tuple[str, str] | None = None) -> bool:
    """Return whether the server has the flow that the page tried to create."""
    answer = httpx.get(f"{api}/flows/name/stolen", auth=log_in, timeout=30)
    return answer.status_code == httpx.codes.OK


def answers_rebound_name(url: str, log_in: tuple[str, str] | None = None) -> int:
    """Return the status of a request whose Host is a rebound name."""
    return httpx.get(url, headers={"Host": "evil.example"}, auth=log_in, timeout=30).status_code
