"""Reads as much of YAML as the bundle is written in, with nothing but Python's own library.

Mappings and sequences in blocks, and in brackets on one line; plain and quoted scalars on one line; blocks of text;
anchors and aliases. Whatever else YAML can do is an error that names the line: this never guesses.
"""

import json
import re

KEY = re.compile(r"""("(?:[^"\\]|\\.)*"|'[^']*'|[^\s"'\[\]{},&*!|>%@`#-][^#]*?)\s*:(?:\s+(.*))?$""")
TEXT = re.compile(r"([|>])([+-]?)\s*(?:#.*)?$")
ANCHOR = re.compile(r"&(\S+)\s*")
QUOTED = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^']|'')*')\s*""")
WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}


class Unreadable(Exception):
    """Something that this reader does not know."""


def load(text):
    return Reader(text).document()


def plain(word):
    if word in WORDS:
        return WORDS[word]
    if re.fullmatch(r"[+-]?\d+", word):
        return int(word)
    if re.fullmatch(r"[+-]?\d+\.\d+", word):
        return float(word)
    return word


def unquoted(word):
    if word[0] == "'":
        return word[1:-1].replace("''", "'")
    try:
        return json.loads(word)  # every escape of the bundle is one of JSON's
    except ValueError as error:
        raise Unreadable(f"cannot read {word}") from error


class Reader:
    def __init__(self, text):
        self.lines = text.splitlines()
        self.at = 0
        self.anchors = {}

    def wrong(self, why):
        return Unreadable(f"line {self.at + 1}: {why}")

    def document(self):
        if self.indent() < 0:
            return None
        found = self.block(self.indent())
        if self.indent() >= 0:
            raise self.wrong("more than was expected here")
        return found

    def indent(self):
        """Of the next line that says something; -1 at the end."""
        while self.at < len(self.lines):
            line = self.lines[self.at]
            said = line.lstrip(" ")
            if said and not said.startswith("#"):
                if said.startswith(("\t", "---", "...", "? ")):
                    raise self.wrong("a tab, a second document or a key with a question mark")
                return len(line) - len(said)
            self.at += 1
        return -1

    def block(self, indent):
        said = self.lines[self.at][indent:]
        return self.sequence(indent) if said == "-" or said.startswith("- ") else self.mapping(indent)

    def sequence(self, indent):
        found = []
        while self.indent() == indent and (self.lines[self.at] + " ")[indent:].startswith("- "):
            line = self.lines[self.at]
            said = line[indent + 1:].strip()
            if KEY.match(said):
                # The entry is a mapping that begins on this line: read it as if the dash were a space.
                self.lines[self.at] = line[:indent] + " " + line[indent + 1:]
                found.append(self.block(self.indent()))
            else:
                found.append(self.value(said, indent, dashes=False))
        return found

    def mapping(self, indent):
        found = {}
        while self.indent() == indent:
            entry = KEY.match(self.lines[self.at].strip())
            if not entry:
                raise self.wrong("no key where one was expected")
            key = unquoted(entry[1]) if entry[1][0] in "\"'" else entry[1]
            if key in found or key == "<<":
                raise self.wrong(f"{key}: twice, or a merge")
            found[key] = self.value((entry[2] or "").strip(), indent, dashes=True)
        if self.indent() > indent:
            raise self.wrong("further to the right than expected")
        return found

    def value(self, said, indent, dashes):
        """What stands behind a key or a dash, and on the lines below it."""
        anchor = ANCHOR.match(said)
        if anchor:
            said = said[anchor.end():]
        text = TEXT.match(said)
        if text:
            found = self.text(indent, text[1] == ">", "" if text[2] == "-" else "\n")
        elif not said or said.startswith("#"):
            self.at += 1
            below = self.indent()
            under = below > indent or (dashes and below == indent and self.lines[self.at].lstrip().startswith("- "))
            found = self.block(below) if under else None
        else:
            found = self.one_line(said)
            self.at += 1
        if anchor:
            self.anchors[anchor[1]] = found
        return found

    def text(self, indent, folded, end):
        self.at += 1
        begin = self.at
        while self.at < len(self.lines) and (
            not self.lines[self.at].strip() or len(self.lines[self.at]) - len(self.lines[self.at].lstrip(" ")) > indent
        ):
            self.at += 1
        lines = self.lines[begin:self.at]
        margin = min((len(line) - len(line.lstrip(" ")) for line in lines if line.strip()), default=0)
        return (" " if folded else "\n").join(line[margin:] for line in lines).rstrip("\n") + end

    def one_line(self, said):
        found, rest = self.item(said, inside=False)
        if rest.strip() and not rest.lstrip().startswith("#"):
            raise self.wrong(f"cannot read {rest.strip()!r}")
        return found

    def item(self, said, inside):
        """One value at the beginning of a text, and what follows it."""
        said = said.lstrip()
        quoted = QUOTED.match(said)
        if quoted:
            return unquoted(quoted[1]), said[quoted.end():]
        if said.startswith(("[", "{")):
            return self.brackets(said)
        if said.startswith(("!", "%", "@", "`", "&")):
            raise self.wrong(f"cannot read {said!r}")
        word = re.match(r"(?:[^,\[\]{}:#]|:(?!\s|$)|(?<!\s)#)*" if inside else r"(?:[^#]|(?<!\s)#)*", said)[0]
        rest = said[len(word):]
        word = word.strip()
        if word.startswith("*"):
            if word[1:] not in self.anchors:
                raise self.wrong(f"{word} is not known")
            return self.anchors[word[1:]], rest
        return plain(word), rest

    def brackets(self, said):
        sequence, rest = said[0] == "[", said[1:].lstrip()
        end = "]" if sequence else "}"
        found = [] if sequence else {}
        while not rest.startswith(end):
            first, rest = self.item(rest, inside=True)
            if sequence:
                found.append(first)
            else:
                if not rest.startswith(":"):
                    raise self.wrong("no value in braces, or not on this line")
                found[str(first)], rest = self.item(rest[1:], inside=True)
            rest = rest.lstrip()
            if rest.startswith(","):
                rest = rest[1:].lstrip()
            elif not rest.startswith(end):
                raise self.wrong("brackets that do not end on this line")
        return found, rest[1:]
