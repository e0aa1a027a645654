#!/usr/bin/env python3
"""Looks at the console in headless Chromium, without JavaScript and with it, and reports what is wrong with it.

usage: look.py URL [TEXT…]    every TEXT must be on the page, as text
"""

import sys
import urllib.request

from chromium import Chromium

# The least contrast of a text with what is behind it: 4.5, or 3 where it is large (WCAG 2, AA).
FAINT = """(() => {
  const rgb = color => color.match(/[\\d.]+/g).map(Number);
  const light = color => { const [r, g, b] = rgb(color).slice(0, 3).map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = element => { for (; element; element = element.parentElement) { const color = getComputedStyle(element).backgroundColor; if ((rgb(color)[3] ?? 1) === 1) return color; } return "rgb(255, 255, 255)"; };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walker.nextNode();) {
    if (!node.data.trim()) continue;
    const style = getComputedStyle(node.parentElement), size = parseFloat(style.fontSize);
    const [a, b] = [light(style.color), light(behind(node.parentElement))].sort((a, b) => b - a);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < (size >= 24 || size >= 18.66 && style.fontWeight >= 700 ? 3 : 4.5)) faint.push(`${node.data.trim().slice(0, 30)}: ${contrast.toFixed(2)}`);
  }
  return faint;
})()"""

wrong = []


def expect(holds, what):
    if not holds:
        wrong.append(what)


def main(url, texts):
    held = f"{url}/?refresh=0"
    with Chromium() as browser:
        looks = {}
        for dark in [False, True]:
            look = "dark" if dark else "light"
            for width in [360, 800, 1280]:
                page = browser.page(width=width, dark=dark, scripts=False)
                page.open(held)
                expect(page.width() <= width, f"{look}, {width} px: the page is {page.width()} px wide")
                expect(page.complaints() == [], f"{look}, {width} px: {page.complaints()}")
            tree = page.tree()
            page_text = " ".join(name for role, name in tree if role == "StaticText")
            for text in texts:
                expect(text in page_text, f"{look}: '{text}' is not on the page")
            for heading in ["Replicas", "Task types", "Latest failures", "Backlog", "Jobs by class", "Guard"]:
                expect(any(role == "heading" and heading in name for role, name in tree), f"{look}: no heading '{heading}'")
            for role in ["table", "columnheader", "rowheader", "main"]:
                expect(any(found == role for found, _ in tree), f"{look}: nothing of the role {role}")
            # With scripts, to measure. The page must have none of its own.
            page = browser.page(dark=dark)
            page.open(held)
            expect(page.complaints() == [], f"{look}, with scripts: {page.complaints()}")
            faint = page.value(FAINT)
            expect(faint == [], f"{look}: too faint: {faint}")
            expect(page.value("document.scripts.length + document.querySelectorAll('[style]').length") == 0, "a script, or a style of an element's own")
            expect(page.value("document.documentElement.lang") == "en", "no language")
            looks[look] = page.value("getComputedStyle(document.body).backgroundColor")
        expect(looks["light"] != looks["dark"], f"dark is as light is: {looks}")
        page = browser.page(scripts=False)
        page.open(url)
        page.wait_for("Page.loadEventFired")
    page = urllib.request.urlopen(url).read()
    expect(b'http-equiv="refresh"' in page, "it does not refresh itself")
    for problem in wrong:
        print(problem)
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1].rstrip("/"), sys.argv[2:]))
