#!/usr/bin/env python3
"""Acts on the console in headless Chromium, without JavaScript and by keys alone, and reports what is wrong with it.

usage: act.py URL TOKEN ID    ID: of a job that has failed, hostile to a page
"""

import sys
import urllib.error
import urllib.parse
import urllib.request

from chromium import Chromium
from look import FAINT

wrong = []


def expect(holds, what):
    if not holds:
        wrong.append(what)


class Keys:
    """A person without a mouse."""

    def __init__(self, page):
        self.page = page

    def press(self, key, code=None, text=None):
        for kind in ["keyDown", "keyUp"]:
            more = {"text": text} if text and kind == "keyDown" else {}
            self.page.call("Input.dispatchKeyEvent", type=kind, key=key, code=code or key, windowsVirtualKeyCode={"Tab": 9, "Enter": 13}.get(key, 0), **more)

    def focused(self):
        return next((node.get("name", {}).get("value", "") for node in self.page.call("Accessibility.getFullAXTree")["nodes"]
                     for prop in node.get("properties", []) if prop["name"] == "focused" and prop["value"]["value"] and node["role"]["value"] != "RootWebArea"), "")

    def to(self, name):
        for _ in range(60):
            if self.focused().startswith(name):
                return True
            self.press("Tab")
        expect(False, f"'{name}' is not reached by Tab")
        return False

    def type(self, text):
        self.page.call("Input.insertText", text=text)

    def send(self):
        self.page.browser.events = [event for event in self.page.browser.events if event.get("method") != "Page.loadEventFired"]
        self.press("Enter", text="\r")
        self.page.wait_for("Page.loadEventFired")


def text(page):
    return " ".join(name for role, name in page.tree() if role == "StaticText")


def looks_right(page, what, width):
    expect(page.width() <= width, f"{what}: the page is {page.width()} px wide")
    expect("<" not in "".join(name for role, name in page.tree() if role in ["script", "image"]), f"{what}: a publisher's element")


def log_in(page, url, token):
    keys = Keys(page)
    page.open(f"{url}/act")
    keys.to("Token")
    keys.type(token)
    keys.send()
    return keys


def main(url, token, hostile):
    with Chromium() as browser:
        for width, dark in [(360, True), (1280, False)]:
            what = f"{'dark' if dark else 'light'}, {width} px"
            page = browser.page(width=width, dark=dark, scripts=False)
            page.call("Network.clearBrowserCookies")
            log_in(page, url, token + "x")
            expect("That is not the token." in text(page), f"{what}: a wrong token: {text(page)}")
            keys = log_in(page, url, token)
            expect("Where is a job?" in text(page), f"{what}: not logged in: {text(page)}")
            looks_right(page, what, width)
            keys.to("Job's id")
            keys.type(hostile)
            keys.send()
            expect("failed (malformed)" in text(page) and hostile in text(page), f"{what}: not found: {text(page)}")
            looks_right(page, what, width)
            keys.to("Reason")
            keys.type("by hand")
            keys.to("Pause the fleet")
            keys.send()
            expect("replicas follow" in text(page) and "by hand (console, 127.0.0.1)" in text(page), f"{what}: not paused: {text(page)}")
            keys.to("Resume")
            keys.send()
            expect("resumed" in text(page), f"{what}: not resumed: {text(page)}")
            keys.to("Class")
            keys.type("f")
            keys.to("Code")
            keys.type("POLICY_SITE_NOT_ALLOWED")
            keys.to("Dry run")
            keys.send()
            expect("1 jobs would be published again" in text(page), f"{what}: no dry run: {text(page)}")
            looks_right(page, what, width)
            keys.to("Publish again: 1 at most")
            keys.send()
            expect("1 jobs published again" in text(page), f"{what}: not replayed: {text(page)}")
            # The wrong token's answer; and a key that was pressed before the page gave the focus to
            # the token.
            known = ("401", "Autofocus processing was blocked")
            expect([entry for entry in page.complaints() if not any(part in entry for part in known)] == [], f"{what}: {page.complaints()}")
            # With scripts, to measure.
            measured = browser.page(width=width, dark=dark)
            measured.open(f"{url}/act")
            faint = measured.value(FAINT)
            expect(faint == [], f"{what}: too faint: {faint}")
            expect(measured.value("document.scripts.length + document.querySelectorAll('[style], img').length") == 0, f"{what}: a script, a picture or a style of an element's own")
            expect(measured.value("document.cookie") == "", f"{what}: scripts see the cookie")
        # Another site's page, which is what a page of no address is: it cannot act.
        forged = browser.page(scripts=False)
        forged.open("data:text/html," + urllib.parse.quote(f"<form method=post action='{url}/act/pause'><input name=reason value=forged><button>Win</button></form>"))
        keys = Keys(forged)
        keys.to("Win")
        keys.send()
        expect("Log in first" in text(forged) or "not sent by this page" in text(forged), f"a forged form: {text(forged)}")
        # Sixteen others end the session of the browser.
        for _ in range(16):
            urllib.request.urlopen(urllib.request.Request(f"{url}/act/log-in", data=urllib.parse.urlencode({"token": token}).encode()))
        keys = Keys(page)
        keys.to("Resume")
        keys.send()
        expect("Your session has ended" in text(page), f"an ended session: {text(page)}")
        # On a phone, rows are cards: nothing is moved sideways, and each value says what it is.
        phone = browser.page(width=360)
        phone.open(f"{url}/?refresh=0")
        expect(phone.value("[...document.querySelectorAll('.scroll')].every(part => part.scrollWidth <= part.clientWidth)"), "a table is moved sideways on a phone")
        expect(phone.value("[...document.querySelectorAll('td')].every(cell => getComputedStyle(cell, '::before').content.length > 2)"), "a value without its name on a phone")
        expect("captcha-worker dead list --class malformed" in text(phone), f"no command for a failure: {text(phone)}")
    for problem in wrong:
        print(problem)
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1].rstrip("/"), sys.argv[2], sys.argv[3]))
