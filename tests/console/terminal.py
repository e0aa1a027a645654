#!/usr/bin/env python3
"""Runs a program in a terminal of its own, types, and prints what stands on the screen.

usage: terminal.py COLUMNS LINES COMMAND…

Orders come by standard input, a line each, and each is answered by `ok` or by what is wrong and the screen:

  see TEXT      waits until TEXT is on the screen
  unsee TEXT    waits until it is not
  type KEYS     types; \\n and \\x1b are understood
  signal NAME   sends a signal
  plain         no colour has been used
  end CODE      waits for the end with this code, and that the terminal is as it was
"""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

PATIENCE = 60


class Terminal:
    """Understands what a program writes that moves the cursor by address, erases, and uses an alternate screen."""

    def __init__(self, columns, lines, command):
        self.columns, self.lines, self.said, self.rest = columns, lines, "", b""
        self.cells, self.x, self.y = [[" "] * columns for _ in range(lines)], 0, 0
        # Its other side stays open here, so that its modes can be looked at when the program has
        # gone.
        self.file, self.other = pty.openpty()
        fcntl.ioctl(self.other, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.before = self.modes()
        self.process = subprocess.Popen(command, stdin=self.other, stdout=self.other, stderr=self.other, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))

    def modes(self):
        return termios.tcgetattr(self.other)[3] & (termios.ECHO | termios.ICANON | termios.ISIG)

    def read(self, patience):
        """Whether there was anything."""
        if not select.select([self.file], [], [], patience)[0]:
            return False
        self.rest += os.read(self.file, 65536)
        # Half a character is kept for the next time.
        text = self.rest.decode(errors="ignore")
        self.rest = self.rest[len(text.encode()):]
        self.said += text
        for part in re.findall(r"\x1b\[[?>]?[\d;]*[A-Za-z]|\x1b.|[^\x1b]", text):
            self.take(part)
        return True

    def take(self, part):
        if part.startswith("\x1b["):
            kind, numbers = part[-1], [int(n or 1) for n in part.strip("\x1b[?>")[:-1].split(";")]
            if kind in "Hf":
                self.y, self.x = numbers[0] - 1, (numbers[1] if len(numbers) > 1 else 1) - 1
            elif kind == "J" or part in ("\x1b[?1049h", "\x1b[?1049l"):
                self.cells = [[" "] * self.columns for _ in range(self.lines)]
        elif part == "\n":
            self.y = min(self.y + 1, self.lines - 1)
        elif part == "\r":
            self.x = 0
        elif part >= " ":
            if 0 <= self.y < self.lines and 0 <= self.x < self.columns:
                self.cells[self.y][self.x] = part
            self.x += 1

    def screen(self):
        return "\n".join("".join(row).rstrip() for row in self.cells)

    def until(self, holds):
        deadline = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > deadline:
                return False
            self.read(0.1)
        return True

    def ended(self):
        return self.process.poll() is not None

    def obey(self, order, what):
        if order == "see":
            return None if self.until(lambda: what in self.screen()) else f"'{what}' is not there"
        if order == "unsee":
            return None if self.until(lambda: what not in self.screen()) else f"'{what}' is still there"
        if order == "type":
            os.write(self.file, what.encode().decode("unicode_escape").encode())
        elif order == "signal":
            self.process.send_signal(getattr(signal, f"SIG{what}"))
        elif order == "plain":
            colours = re.findall(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9\d)(?:;\d+)*m", self.said)
            return None if not colours else f"colours: {set(colours)}"
        elif order == "end":
            if not self.until(self.ended) or self.process.returncode != int(what):
                return f"it ended with {self.process.returncode}"
            while self.read(0.1):
                pass
            if "\x1b[?1049h" not in self.said or self.said.rfind("\x1b[?1049l") < self.said.rfind("\x1b[?1049h"):
                return "the alternate screen was not left"
            if self.said.rfind("\x1b[?25h") < self.said.rfind("\x1b[?25l"):
                return "the cursor is hidden"
            if self.modes() != self.before:
                return "the terminal's modes are not what they were"
        else:
            return f"no such order: {order}"
        return None


def main(columns, lines, *command):
    terminal = Terminal(int(columns), int(lines), command)
    try:
        for line in sys.stdin:
            order, _, what = line.rstrip("\n").partition(" ")
            wrong = terminal.obey(order, what)
            print("ok" if wrong is None else f"{wrong}; the screen:\n{terminal.screen()}", flush=True)
            if wrong is not None:
                return 1
        return 0
    finally:
        if not terminal.ended():
            terminal.process.kill()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
