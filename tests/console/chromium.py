"""Headless Chromium, driven over a pipe by its own protocol: nothing but Python and the browser is needed, and no port is opened."""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
# Alone with the page: no updates, no reports, no first steps.
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-default-browser-check", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage", "--mute-audio", "--disable-lcd-text", "--hide-scrollbars", "--remote-debugging-pipe",
         "--force-device-scale-factor=1", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]


class Chromium:
    def __init__(self, patience=60):
        name = os.environ.get("CHROMIUM") or next(filter(shutil.which, NAMES), None)
        if not name:
            raise FileNotFoundError("no Chromium: run scripts/ensure-chromium, or set CHROMIUM")
        self.patience, self.asked, self.rest, self.events = patience, 0, b"", []
        self.folder = tempfile.mkdtemp(prefix="captcha-worker-chromium.")
        there, self.out = os.pipe()
        self.into, back = os.pipe()

        def as_expected():
            # Above 4 first, so that neither is closed by the other's move.
            low, high = os.dup(there), os.dup(back)
            low, high = (os.dup(low) if low < 5 else low), (os.dup(high) if high < 5 else high)
            os.dup2(low, 3)
            os.dup2(high, 4)

        self.process = subprocess.Popen([name, *FLAGS, f"--user-data-dir={self.folder}", "about:blank"], preexec_fn=as_expected, close_fds=False,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        os.close(there)
        os.close(back)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        os.close(self.out)
        os.close(self.into)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _next(self, deadline):
        while b"\0" not in self.rest:
            if not select.select([self.into], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError("Chromium does not answer")
            piece = os.read(self.into, 1 << 20)
            if not piece:
                raise EOFError("Chromium has ended")
            self.rest += piece
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, session=None, **params):
        self.asked += 1
        message = {"id": self.asked, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + self.patience
        while True:
            heard = self._next(deadline)
            if heard.get("id") == self.asked:
                if "error" in heard:
                    raise RuntimeError(f"{method}: {heard['error']}")
                return heard["result"]
            self.events.append(heard)

    def page(self, **how):
        return Page(self, **how)


class Page:
    """A tab: of this size, dark or light, with or without JavaScript."""

    def __init__(self, browser, width=1280, height=800, dark=False, scripts=True, scale=1):
        self.browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Log", "Runtime", "Network"]:
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)

    def call(self, method, **params):
        return self.browser.call(method, self.session, **params)

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.wait_for("Page.loadEventFired")

    def wait_for(self, method):
        deadline = time.monotonic() + self.browser.patience
        while True:
            for event in self.browser.events:
                if event.get("method") == method and event.get("sessionId") == self.session:
                    self.browser.events.remove(event)
                    return
            self.browser.events.append(self.browser._next(deadline))

    def complaints(self):
        """What stands in the console: errors, violations of the policy, whatever a script says."""
        of = {"Log.entryAdded": lambda params: params["entry"]["text"], "Runtime.consoleAPICalled": lambda params: str(params["args"]),
              "Runtime.exceptionThrown": lambda params: str(params["exceptionDetails"]), "Network.loadingFailed": lambda params: params["errorText"]}
        self.call("Runtime.getIsolateId")
        own = [event for event in self.browser.events if event.get("sessionId") == self.session]
        return [of[event["method"]](event["params"]) for event in own if event["method"] in of]

    def width(self):
        """How wide what is on the page is."""
        return self.call("Page.getLayoutMetrics")["cssContentSize"]["width"]

    def value(self, script):
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    def tree(self):
        """What a screen reader gets: pairs of role and name."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")]

    def picture(self):
        """What is seen, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
